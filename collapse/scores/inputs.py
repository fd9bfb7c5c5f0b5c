"""What a score function is given and what it returns."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from collapse.errors import RequestError
from collapse.models import Inputs, Ones, Selector, all_finite, samples, with_floats
from collapse.options import Mode
from collapse.scores.losses import Loss, value_of
from collapse.seeding import derive

# Inputs in any form, and targets in whatever form the loss takes.
Batch = tuple[Inputs, Any]


class Scores(dict[str, Tensor]):
    """Scores by parameter name, with what is known of how they were computed.

    Attributes:
        precision: ``float32``, ``float64`` or ``float64 rescaled`` (see ``rescaling``).
        total: the scalar ``R`` that positive, conserved scores sum to over any cut, in units of
            ``2**exponent`` as the scores are; None for other scores.
        exponent: the scores stand for ``score * 2**exponent``; ranks do not depend on it.
    """

    def __init__(
        self,
        scores: Mapping[str, Tensor],
        *,
        precision: str = "float32",
        total: float | None = None,
        exponent: int = 0,
    ) -> None:
        super().__init__(scores)
        self.precision = precision
        self.total = total
        self.exponent = exponent

    def of(self, scores: Mapping[str, Tensor]) -> Scores:
        """Other tensors that were computed in the same way."""
        return Scores(scores, precision=self.precision, total=self.total, exponent=self.exponent)


@dataclass(frozen=True)
class ScoreInputs:
    """What a score function may look at besides the model and the masks.

    Attributes:
        batches: pairs of inputs (a tensor ``[n, …]``, a tuple of arguments, a dict of keywords)
            and targets, on the model's device. SynFlow takes only the shape from them.
        mode: the model's mode while scoring.
        loss: of (output, targets), a mean over the batch.
        output: selects a tensor from a forward that returns several; ``"all"`` for all of them.
        seed: of every random choice.
        iteration: 1 for the first scoring; random scores are drawn anew in each.
        dtype: in which to compute, from the start; None for the model's own, or float32 for half
            precision.
    """

    batches: Sequence[Batch] = ()
    mode: Mode = "eval"
    loss: Loss = field(default=F.cross_entropy)
    output: Selector = None
    seed: int = 0
    iteration: int = 1
    dtype: torch.dtype | None = None

    def ones(self, scored: Collection[str] = ()) -> Ones:
        """One sample of ones in the inputs' form.

        Args:
            scored: parameters that are.

        Raises:
            RequestError: there is no batch to take the form from.
        """
        if not self.batches:
            raise RequestError(
                "this pruner needs the input's shape: expected at least one batch, got none"
            )
        if samples(self.batches[0][0]) == 0:
            raise RequestError(
                "this pruner needs the input's shape: expected at least one sample, got none"
            )
        return Ones.like(self.batches[0][0], self.dtype, scored=scored)

    def loss_of(self, outputs: Any, targets: Any, temperature: float = 1.0) -> Tensor:
        """The loss, of outputs divided by a temperature.

        Raises:
            RequestError: it fails, or does not fit the outputs.
        """
        if temperature != 1:
            outputs = with_floats(outputs, lambda x: x / temperature)
        return value_of(self.loss, outputs, targets)


def scoring_seed(inputs: ScoreInputs) -> int:
    """The seed of whatever a forward draws while it is scored (dropout)."""
    return derive(inputs.seed, "scoring", inputs.iteration)


def check_scores(scores: Scores, pruner: str, why: str = "") -> None:
    """Raise RequestError that names the first layer with a NaN or infinite score, if any."""
    for name, tensor in scores.items():
        if not all_finite(tensor):
            raise RequestError(f"{pruner} score of layer '{name}' is not finite{why}")


def dtype_name(dtype: torch.dtype) -> str:
    """``float32``, not ``torch.float32``."""
    return str(dtype).removeprefix("torch.")
