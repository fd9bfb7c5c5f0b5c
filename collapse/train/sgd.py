"""Stochastic gradient descent, fused where that is exact."""

from __future__ import annotations

import torch
from torch import nn

from collapse.train.recipes import Settings


def sgd(parameters: list[nn.Parameter], settings: Settings) -> torch.optim.SGD:
    """The optimizer of some parameters of one device and precision."""
    first = parameters[0]
    return torch.optim.SGD(
        parameters,
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.momentum > 0,
        # Fused in half precision on a CPU it rounds away small steps (torch 2.11).
        fused=first.device.type in ("cpu", "cuda") and first.dtype.itemsize >= 4,
    )


def begin_momentum(optimizer: torch.optim.SGD) -> None:
    """Of parameters whose first gradient comes late: a fused step takes all or none."""
    (group,), state = optimizer.param_groups, optimizer.state
    if state and group["momentum"] > 0:
        for parameter in group["params"]:
            if parameter.grad is not None and parameter not in state:
                state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}
