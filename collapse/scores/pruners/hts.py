"""Hutchinson-Taylor sensitivity."""

from __future__ import annotations

from torch import nn

from collapse.models import Masks
from collapse.scores.curvature import hutchinson_diagonal, taylor
from collapse.scores.gradients import loss_gradient
from collapse.scores.inputs import ScoreInputs, Scores
from collapse.scores.registry import pruner

TEMPERATURE = 200.0
PROBES = 10


@pruner(stateless=True, passes=83)
def hts(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """Hutchinson-Taylor sensitivity, ``|θ ⊙ g + ½ θ² ⊙ D|`` (Gollini et al. 2026).

    ``D = E[z ⊙ H z]`` estimates the Hessian's diagonal from 10 draws of ``z = ±1``. Logits are
    divided by 200 in ``g`` and in ``H``, in eval mode, both as in the authors' code.

    Example:
        >>> net = nn.Linear(2, 2, bias=False)
        >>> batch = (torch.eye(2), torch.tensor([0, 1]))
        >>> masks = {"weight": torch.ones(2, 2).bool()}
        >>> score(net, "hts", masks, ScoreInputs([batch]))["weight"].shape
        torch.Size([2, 2])
    """
    theta, gradient = loss_gradient(model, masks, inputs, TEMPERATURE)
    return taylor(theta, gradient, hutchinson_diagonal(model, masks, inputs, TEMPERATURE, PROBES))
