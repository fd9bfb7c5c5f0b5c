"""Bottlenecks: what every path from the input to the output passes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from collapse import masks as masking
from collapse.errors import RequestError
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


class _Sized(nn.Module):
    """Checks its sizes, shapes by them, and calls its BatchNorm as a function."""

    def __init__(self, shift: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(2, 2, 1) for _ in range(40))
        self.norm, self.gain, self.shift = (
            nn.BatchNorm2d(2),
            nn.Parameter(torch.rand(2, 1, 1)),
            shift,
        )
        for layer in self.layers:
            nn.init.uniform_(layer.weight, 0.5e20, 2e20)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        torch._assert(c == 2, "channels")
        for layer in self.layers:
            x = layer(x)
        norm = self.norm
        mean, var = norm.running_mean, norm.running_var
        x = F.batch_norm(x, mean, var, norm.weight, norm.bias, False, 0.1, norm.eps) * self.gain
        return x.reshape(n, c, h * w).sum(-1) / (h * w) + (
            self.gain[:, 0, 0] if self.shift else x[:, :, 0, 0]
        )


def test_sizes_and_parameters_are_no_obstacle() -> None:
    """With every layer times 2**-66 the same scores are within float64."""
    torch.manual_seed(0)
    model = _Sized(shift=False).double()
    inputs = ScoreInputs([(torch.zeros(1, 2, 3, 3, dtype=torch.float64), None)])
    large = score(model, "synflow", masking.dense(model), inputs)
    assert large.precision == "float64 rescaled"
    for layer in model.layers:
        layer.weight.data.mul_(2.0**-66)
    small = score(model, "synflow", masking.dense(model), inputs)
    assert small.precision == "float64"
    for name, scores in small.items():
        torch.testing.assert_close(large[name] * 2.0 ** (large.exponent - 66 * 40), scores)


def test_a_parameter_that_is_added_is_an_obstacle() -> None:
    model = _Sized(shift=True).double()
    inputs = ScoreInputs([(torch.zeros(1, 2, 3, 3, dtype=torch.float64), None)])
    with pytest.raises(RequestError, match="homogeneous networks only: 'add' in the network"):
        score(model, "synflow", masking.dense(model), inputs)


def test_a_gradient_that_overflows_is_not_said_of_R() -> None:
    """A softmax of large entries is 1 and 0; its gradient is 0 times infinity."""

    class Saturated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last((self.first(x) * 1e200 * 1e150).softmax(1))

    model = Saturated().double()
    nn.init.constant_(model.first.weight, 1e-60)
    inputs = ScoreInputs([(torch.zeros(1, 2, dtype=torch.float64), None)])
    words = "R's gradient leaves the range of float64 at 'first.weight'.* 'softmax' in the network"
    with pytest.raises(RequestError, match=words):
        score(model, "synflow", masking.dense(model), inputs)
