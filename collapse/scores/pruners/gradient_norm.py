"""The squared gradient, which published code calls GRASP-It."""

from __future__ import annotations

from torch import nn

from collapse.models import Masks
from collapse.scores.gradients import loss_gradient, times
from collapse.scores.inputs import ScoreInputs, Scores
from collapse.scores.registry import pruner


@pruner(iterations=60, mode="train", stateless=True)
def gradient_norm(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """``(∂L/∂θ)²``, each weight's part of the squared norm of the gradient.

    GRASP-It in the code of de Jorge et al. 2021 (naver/force, ``prune_method 2``). It ranks as
    ``|∂L/∂θ|`` does, the gradient norm of Gollini et al. 2026; the weight itself has no say.

    Example:
        >>> net = nn.Linear(2, 2, bias=False)
        >>> batch = (torch.eye(2), torch.tensor([0, 1]))
        >>> masks = {"weight": torch.ones(2, 2).bool()}
        >>> score(net, "gradient_norm", masks, ScoreInputs([batch]))["weight"].min() >= 0
        tensor(True)
    """
    _, gradient = loss_gradient(model, masks, inputs)
    return times(gradient, gradient)
