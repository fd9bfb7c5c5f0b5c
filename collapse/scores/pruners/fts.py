"""Fisher-Taylor sensitivity."""

from __future__ import annotations

from torch import nn

from collapse.models import Masks
from collapse.scores.curvature import fisher_diagonal, taylor
from collapse.scores.gradients import loss_gradient
from collapse.scores.inputs import ScoreInputs, Scores
from collapse.scores.registry import pruner


@pruner(stateless=True, passes=33)
def fts(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """Fisher-Taylor sensitivity, ``|θ ⊙ g + ½ θ² ⊙ F|`` (Gollini et al. 2026).

    ``g`` is the gradient of the mean loss, ``F`` the Fisher diagonal (``fd``) in place of the
    Hessian's. In eval mode.

    Example:
        >>> net = nn.Linear(2, 2, bias=False)
        >>> batch = (torch.eye(2), torch.tensor([0, 1]))
        >>> masks = {"weight": torch.ones(2, 2).bool()}
        >>> score(net, "fts", masks, ScoreInputs([batch]))["weight"].shape
        torch.Size([2, 2])
    """
    theta, gradient = loss_gradient(model, masks, inputs)
    return taylor(theta, gradient, fisher_diagonal(model, masks, inputs))
