"""Scores by ``R`` in the first precision that holds it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from collapse.errors import RequestError
from collapse.models import Masks, all_finite, compute_dtype
from collapse.scores.inputs import ScoreInputs, Scores, check_scores, dtype_name
from collapse.scores.overflow import where_beyond
from collapse.scores.rescaling import rescaled

_INSTEAD = "expected smaller weights (--init), a smaller input, or another pruner"

# (model, masks, inputs, network): ``network`` is what to run on the model's tensors, the model or
# a rescaled copy of it, and ``inputs.dtype`` is the precision to compute in.
Formula = Callable[[nn.Module, Masks, ScoreInputs, nn.Module], Scores]


def widening(formula: Formula) -> Callable[[nn.Module, Masks, ScoreInputs], Scores]:
    """Compute in float32, in float64 where ``R`` leaves its range, and past that rescaled.

    The formula's ``Scores.total`` is ``R``; precision and exponent are filled in here. Only a
    homogeneous network is ever rescaled: a copy of another one would be another function, so that
    one is scored as it is defined for as long as the numbers are finite.

    Raises:
        RequestError: ``R`` is in no precision finite, and the model cannot be rescaled (why is
            said).
    """

    @functools.wraps(formula)
    def score(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
        device = inputs.ones().device
        scores, problem = Scores({}), "dividing the tensors that every path passes is not enough"
        for dtype, rescale in precisions(model, device, inputs.dtype):
            exponents: list[int] = []
            try:
                network = rescaled(model, masks, exponents) if rescale else model
            except RequestError as error:
                problem = str(error)
                break
            try:
                scores = formula(model, masks, replace(inputs, dtype=dtype), network)
            except RequestError:
                if inputs.dtype is None or precisions(model, device, None)[0][0] == dtype:
                    raise
                # A forward that insists on float32 (`x.float()`).
                return score(model, masks, replace(inputs, dtype=None))
            scores.precision = dtype_name(dtype) + " rescaled" * rescale
            scores.exponent = sum(exponents)
            if in_range(scores, dtype) or (rescale and _finite(scores)):
                return scores
        if not _finite(scores):

            def plain() -> Scores:
                return formula(model, masks, replace(inputs, dtype=dtype), model)

            found = where_beyond(model, plain, dtype_name(dtype))
            check_scores(scores, formula.__name__, f": {found}; {problem}; {_INSTEAD}")
        return scores

    return score


def precisions(
    model: nn.Module, device: torch.device, wanted: torch.dtype | None
) -> list[tuple[torch.dtype, bool]]:
    """(dtype, whether to rescale) in the order in which they are tried. MPS has no float64.

    Args:
        wanted: ``torch.float64`` leaves out float32.
    """
    if device.type == "mps":
        return [(torch.float32, False), (torch.float32, True)]
    double = [(torch.float64, False), (torch.float64, True)]
    if torch.float64 in (wanted, compute_dtype(model)):
        return double
    return [(torch.float32, False), *double]


def in_range(scores: Scores, dtype: torch.dtype) -> bool:
    """Whether R is far enough from both ends of the range for its parts to be exact as well."""
    assert scores.total is not None
    return holds(scores.total, dtype) and _finite(scores)


def _finite(scores: Scores) -> bool:
    return all(map(all_finite, scores.values()))


def holds(R: float, dtype: torch.dtype) -> bool:
    """An ``R`` near underflow has parts that are zero by rounding, which would look dead.

    An ``R`` of zero is checked again in the next precision for the same reason. A negative one is
    no fault: normalisations that subtract a mean make it so.
    """
    low, high = limits(dtype)
    return low < abs(R) < high


def limits(dtype: torch.dtype) -> tuple[float, float]:
    """Between which an ``R`` is held by a precision."""
    return (1e-20, 1e36) if dtype == torch.float32 else (1e-200, 1e300)
