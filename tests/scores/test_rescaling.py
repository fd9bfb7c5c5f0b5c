"""Bottlenecks: what every path from the input to the output passes."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from collapse.scores.rescaling import bottlenecks


def test_parameters_used_outside_modules_cut_no_path() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 2)
            self.scale = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            scale = 2 * self.scale  # on no path from the input
            return self.last(self.first(x) * scale)

    names = [node.name for node in bottlenecks(fx.symbolic_trace(Scaled()).graph)]
    assert names == ["first", "mul_1", "last"]
