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
from collapse.scores.fast.live_blocks import Workspace
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
        finite: whether every one is known to be, so that nobody looks at them all again.
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
        self.finite = False

    def clone(self) -> Scores:
        """The same in tensors of its own."""
        twin = Scores(
            {name: tensor.clone() for name, tensor in self.items()},
            precision=self.precision,
            total=self.total,
            exponent=self.exponent,
        )
        twin.finite = self.finite
        return twin


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
        workspace: what SynFlow keeps from one iteration to the next. Give the same one only for
            the same model and masks that shrink; its scores are overwritten by the next ones.
        wide: SynFlow is to compute in float64, where the device has it.
    """

    batches: Sequence[Batch] = ()
    mode: Mode = "eval"
    loss: Loss = field(default=F.cross_entropy)
    output: Selector = None
    seed: int = 0
    iteration: int = 1
    workspace: Workspace = field(default_factory=Workspace)
    wide: bool = False


def scoring_seed(inputs: ScoreInputs) -> int:
    """The seed of whatever a forward draws while it is scored (dropout)."""
    return derive(inputs.seed, "scoring", inputs.iteration)


def check_scores(scores: Scores, pruner: str, why: str = "") -> None:
    for name, tensor in scores.items():
        if not all_finite(tensor):
            raise RequestError(f"{pruner} score of layer '{name}' is not finite{why}")


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
