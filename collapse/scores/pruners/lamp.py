"""LAMP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from collapse.models import Masks, compute_dtype, kept_parameters, stand_ins
from collapse.scores.inputs import ScoreInputs, Scores, dtype_name
from collapse.scores.registry import pruner


@pruner(mode=None, data="none", stateless=True)
def lamp(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """LAMP, ``θ_u² / Σ_{v ≥ u} θ_v²`` with a layer's weights in ascending order (Lee et al. 2021).

    Magnitude over what a layer would have left. The largest weight of each layer scores 1 and no
    other does, so no layer collapses while there is a weight for each. Of equal weights the one
    that comes first counts as the larger.

    Example:
        >>> net = nn.Linear(3, 1, bias=False)
        >>> net.weight.data = torch.tensor([[1.0, 2.0, -2.0]])
        >>> score(net, "lamp", {"weight": torch.ones(1, 3).bool()}, ScoreInputs())["weight"]
        tensor([[0.1111, 1.0000, 0.5000]])
    """
    dtype = compute_dtype(model)
    tensors = stand_ins(model, dtype=dtype, parameter=kept_parameters(masks))
    scores = {name: _of_layer(tensors[name].double()).to(dtype) for name in masks}
    return Scores(scores, precision=dtype_name(dtype))


def _of_layer(theta: Tensor) -> Tensor:
    squares, order = theta.square().flatten().sort(descending=True, stable=True)
    shares = (squares / squares.cumsum(0)).nan_to_num(0.0)  # of a layer that is all zero: 0 / 0
    return torch.empty_like(shares).scatter_(0, order, shares).view(theta.shape)
