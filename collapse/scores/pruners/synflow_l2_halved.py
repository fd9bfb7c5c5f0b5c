"""SynFlow-L2 in the form of published code."""

from __future__ import annotations

import torch
from torch import nn

from collapse.models import Masks, stand_ins
from collapse.scores.inputs import ScoreInputs, Scores
from collapse.scores.pruners.synflow_l2 import synflow_l2
from collapse.scores.registry import pruner


@pruner(iterations=100, data="shape", stateless=True)
def synflow_l2_halved(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """``|θ| ⊙ ∂R/∂θ²`` with ``R = 1ᵀ f(1; θ²)``: SynFlow-L2 as published code has it.

    That of Patil & Dovrolis 2021 (PHEW, ``synflowl2_utils.py``) and of Iurada et al. 2024
    (px-ntk-pruning, ``SynFlowL2``) multiply the gradient in ``θ²`` by ``|θ|``, not by ``θ²``. That
    is ``synflow_l2 / |θ|``: no saliency of any ``R``, so it is not conserved.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> net.weight.data = torch.tensor([[3.0, -1.0]])
        >>> row = (torch.zeros(1, 2), None)
        >>> score(net, "synflow_l2_halved", {"weight": torch.ones(1, 2).bool()}, ScoreInputs([row]))
        {'weight': tensor([[3., 1.]])}
    """
    whole = synflow_l2(model, masks, inputs)
    theta = stand_ins(model, dtype=inputs.dtype)
    halved = {name: _over(whole[name], theta[name].abs()) for name in masks}
    return Scores(halved, precision=whole.precision, exponent=whole.exponent)


def _over(score: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """``s / |θ|``; zero for a zero weight, whose ``|θ| ⊙ ∂R/∂θ²`` is zero."""
    return torch.where(theta > 0, score / theta, 0.0)
