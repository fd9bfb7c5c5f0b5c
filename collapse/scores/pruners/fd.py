"""The diagonal of the empirical Fisher matrix."""

from __future__ import annotations

from torch import nn

from collapse.models import Masks
from collapse.scores.curvature import fisher_diagonal
from collapse.scores.inputs import ScoreInputs, Scores, dtype_name
from collapse.scores.registry import pruner


@pruner(stateless=True, passes=30)
def fd(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """Fisher diagonal, ``F = (1/n) Σ_i (∂ℓ_i/∂θ)²`` over samples (Gollini et al. 2026).

    One forward and backward a sample, in eval mode, as in the authors' code with its mask batch of
    one. With larger batches that code squares gradients of means over a batch, another number.

    Example:
        >>> net = nn.Linear(2, 2, bias=False)
        >>> batch = (torch.eye(2), torch.tensor([0, 1]))
        >>> masks = {"weight": torch.ones(2, 2).bool()}
        >>> score(net, "fd", masks, ScoreInputs([batch]))["weight"].min() >= 0
        tensor(True)
    """
    diagonal = fisher_diagonal(model, masks, inputs)
    return Scores(diagonal, precision=dtype_name(next(iter(diagonal.values())).dtype))
