"""What a score function is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from collapse.errors import RequestError
from collapse.models import Selector, all_finite
from collapse.options import Mode
from collapse.seeding import derive

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


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
        batches: pairs of inputs ``[n, …]`` and integer targets ``[n]``, on the model's device.
            SynFlow takes only the shape from them.
        mode: the model's mode while scoring.
        loss: of (output, targets), a mean over the batch.
        output: selects a tensor from a forward that returns several.
        seed: of every random choice.
        iteration: 1 for the first scoring; random scores are drawn anew in each.
        dtype: ``torch.float64`` has SynFlow compute in it from the start, where the device has it;
            None in the model's own, or in float32 for half precision.
    """

    batches: Sequence[Batch] = ()
    mode: Mode = "eval"
    loss: Loss = field(default=F.cross_entropy)
    output: Selector = None
    seed: int = 0
    iteration: int = 1
    dtype: torch.dtype | None = None

    def ones(self) -> Tensor:
        """One sample of ones ``[1, …]`` in the inputs' shape.

        Raises:
            RequestError: there is no batch to take the shape from, or its inputs are integers.
        """
        if not self.batches:
            raise RequestError(
                "synflow needs the input's shape: expected at least one batch, got none"
            )
        first = self.batches[0][0]
        if not first.is_floating_point():
            raise RequestError(f"synflow needs floating-point inputs, got {first.dtype}")
        return torch.ones((1, *first.shape[1:]), dtype=self.dtype, device=first.device)


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
