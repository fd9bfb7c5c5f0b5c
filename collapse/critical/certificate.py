"""What Theorem 3 presupposes, checked on a network: only then is a schedule called certified.

Equal sums of the dense layers are no proof of it: softplus, GELU, ``relu(x + 0.001)`` and a
shortcut of 1e-4 all pass such a test and break the promise (DESIGN 4.13).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from collapse import masks as masking
from collapse.conservation import outside
from collapse.conservation.auditing import flow_of
from collapse.errors import RequestError
from collapse.models import Ones, call, floats_of, untouched
from collapse.problem import Problem
from collapse.schedules import CERTIFIED_MARGIN
from collapse.scores import ScoreInputs, Scores, positive


def theorem_3_holds(problem: Problem, scores: Scores, is_cut: Callable[[str], bool]) -> bool:
    """Whether the certified schedule keeps every layer of this network alive.

    Each layer carries all of ``R`` and is a cut layer, no operation is outside the theory, and the
    positive network is homogeneous, to the bit.

    Args:
        scores: SynFlow's, of the dense network.
        is_cut: whether every input→output path crosses a layer.
    """
    if scores.total is None or not all(
        abs(layer_sum - scores.total) <= CERTIFIED_MARGIN * scores.total
        for layer_sum, _ in masking.sums(scores).values()
    ):
        return False
    return all(map(is_cut, scores)) and _homogeneous(problem) and _inside(problem, scores)


def _homogeneous(problem: Problem) -> bool:
    """``f(2x) = 2 f(x)`` and ``f(0) = 0``: a power of two rounds nothing."""
    state = positive(problem.model, problem.start(), torch.float64)

    def f(scale: float) -> Tensor:
        x = Ones.like(problem.example, torch.float64, value=scale)
        tensors = {name: tensor.clone() for name, tensor in state.items()}
        outputs = floats_of(call(problem.model, tensors, x, problem.output))
        return torch.cat([y.flatten() for y in outputs])

    try:
        with untouched(problem.model, "eval"), torch.no_grad():
            one = f(1.0)
            return torch.equal(f(2.0), 2 * one) and not bool(f(0.0).any())
    except RequestError:  # a forward that insists on float32
        return False


def _inside(problem: Problem, scores: Scores) -> bool:
    """Whether the flow of ``R`` meets no operation that is outside the theory."""
    inputs = ScoreInputs(problem.batches, output=problem.output)
    try:
        trace = flow_of(problem.model, problem.start(), inputs, "synflow", scores)
    except RequestError:  # it cannot be followed
        return False
    return outside(trace).empty
