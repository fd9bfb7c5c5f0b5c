"""Bottlenecks: what every path from the input to the output passes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, fx, nn

from collapse import masks as masking
from collapse.scores import ScoreInputs, score
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


def test_the_exponent_counts_what_was_taken_out() -> None:
    """Of 40 layers of one weight ``w`` each way, ``R = 2 (2 w)^40``."""
    model = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(40)))
    for module in model:
        nn.init.constant_(module.weight, 1e20)
    inputs = ScoreInputs([(torch.zeros(1, 2), None)])
    scores = score(model, "synflow", masking.dense(model), inputs)
    assert scores.precision == "float64 rescaled"
    expected = 1 + 40 * math.log2(2e20)
    assert math.log2(scores.total) + scores.exponent == pytest.approx(expected, rel=1e-6)
