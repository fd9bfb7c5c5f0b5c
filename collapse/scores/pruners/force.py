"""FORCE."""

from __future__ import annotations

import torch
from torch import nn

from collapse.models import Masks, stand_ins
from collapse.scores.gradients import loss_gradient, times
from collapse.scores.inputs import ScoreInputs, Scores
from collapse.scores.registry import pruner


@pruner(iterations=60, mode="train", stateless=True, regrows=True)
def force(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """FORCE, ``|θ ⊙ ∂L/∂θ̄|`` at ``θ̄ = θ ⊙ c`` (de Jorge et al. 2021).

    Foresight connection sensitivity: the gradient is that of the pruned network, ``θ`` the weight
    that a connection would have again. All weights are ranked in every step, so that a pruned one
    can come back. 60 steps as in the authors' instructions (naver/force), which draw other samples
    for each step; here all steps see the same.

    Example:
        >>> net = nn.Linear(2, 2, bias=False)
        >>> batch = (torch.eye(2), torch.tensor([0, 1]))
        >>> none = {"weight": torch.zeros(2, 2).bool()}
        >>> (score(net, "force", none, ScoreInputs([batch]))["weight"] > 0).all()
        tensor(True)
    """
    every = {name: torch.ones_like(mask) for name, mask in masks.items()}
    theta = stand_ins(model)
    kept = {name: theta[name] * mask for name, mask in masks.items()}
    leaves, gradient = loss_gradient(model, every, inputs, at=kept)
    whole = {name: theta[name].to(leaf.dtype) for name, leaf in leaves.items()}
    saliency = times(whole, gradient)
    return saliency.of({name: tensor.abs_() for name, tensor in saliency.items()})
