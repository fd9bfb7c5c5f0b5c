"""SynFlow-L2, in the form that is conserved."""

from __future__ import annotations

import torch
from torch import nn

from collapse.models import Masks
from collapse.scores.inputs import ScoreInputs, Scores
from collapse.scores.precision import widening
from collapse.scores.pruners.synflow import saliency_of_R
from collapse.scores.registry import pruner


@pruner(iterations=100, data="shape", stateless=True, certifies=True)
@widening
def synflow_l2(model: nn.Module, masks: Masks, inputs: ScoreInputs, network: nn.Module) -> Scores:
    """SynFlow-L2, ``θ² ⊙ ∂R/∂θ²`` with ``R = 1ᵀ f(1; θ²)`` (Gebhart, Saxena & Schrater 2021).

    SynFlow of the squared weights: ``R`` is the sum of squared weights along all paths, the trace
    of the path kernel up to a path's own weights. Each layer's scores sum to ``R``, as SynFlow's.
    ``θ ⊙ ∂R/∂θ`` is twice this and ranks alike; ``|θ| ⊙ ∂R/∂θ²``, which published code computes,
    does neither (``synflow_l2_halved``).

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> net.weight.data = torch.tensor([[3.0, -1.0]])
        >>> row = (torch.zeros(1, 2), None)
        >>> score(net, "synflow_l2", {"weight": torch.ones(1, 2).bool()}, ScoreInputs([row]))
        {'weight': tensor([[9., 1.]])}
    """
    return saliency_of_R(model, masks, inputs, network, of=torch.square)
