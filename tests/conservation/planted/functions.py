"""Faults in the gradient of a function of the user's own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.conservation.planted import Case, caught, listed
from tests.conservation.planted.networks import custom, images, vectors
from tests.zoo import _randomise

HERE = r"gradient at middle:Custom"


@caught(HERE)
def _() -> Case:
    """a view whose gradient is 1.5 times too large."""
    return vectors(custom(lambda x: x.view_as(x), lambda g, x: 1.5 * g))


@caught(HERE)
def _() -> Case:
    """a copy whose gradient is 1.5 times too large."""
    return vectors(custom(lambda x: x.clone(), lambda g, x: 1.5 * g))


@caught(HERE)
def _() -> Case:
    """a copy whose gradient is 1.5 times too large, under SynFlow."""
    return vectors(custom(lambda x: x.clone(), lambda g, x: 1.5 * g), pruner="synflow")


@caught(HERE)
def _() -> Case:
    """a copy whose gradient is 1.5 times too large, under GraSP."""
    return vectors(custom(lambda x: x.clone(), lambda g, x: 1.5 * g), pruner="grasp")


@caught(HERE)
def _() -> Case:
    """ReLU with a negated gradient."""
    return vectors(custom(lambda x: x.relu(), lambda g, x: -g * (x > 0)))


@caught(HERE)
def _() -> Case:
    """leaky ReLU with another slope in its gradient."""
    return vectors(custom(
        lambda x: F.leaky_relu(x, 0.2), lambda g, x: g * torch.where(x > 0, 1.0, 0.1)
    ))  # fmt: skip


@caught(HERE)
def _() -> Case:
    """a straight-through sign."""
    return vectors(custom(lambda x: x.sign(), lambda g, x: g))


@caught(HERE)
def _() -> Case:
    """a straight-through rounding."""
    return vectors(custom(lambda x: (4 * x).round() / 4, lambda g, x: g))


@caught(HERE)
def _() -> Case:
    """a clipping that hands all of its gradient through."""
    return vectors(custom(lambda x: x.clamp(-0.3, 0.3), lambda g, x: g))


@caught(r"gradient at middle:Custom")
def _() -> Case:
    """a wrong gradient in the branch of a shortcut."""
    wrong = custom(lambda x: x.clone(), lambda g, x: 1.5 * g)
    return vectors(lambda x: x + wrong(x))


@caught(HERE)
def _() -> Case:
    """a convolution that drops the border of its input's gradient."""
    weight = torch.randn(4, 4, 3, 3, dtype=torch.float64)

    def backward(g: Tensor, x: Tensor) -> Tensor:
        into = F.conv_transpose2d(g, weight, padding=1)
        into[..., 0] = 0
        return into

    return images(custom(lambda x: F.conv2d(x, weight.to(x.dtype), padding=1), backward))


@caught(HERE)
def _() -> Case:
    """a strided convolution whose gradient lands one position off."""
    weight = torch.randn(4, 4, 3, 3, dtype=torch.float64)

    def backward(g: Tensor, x: Tensor) -> Tensor:
        into = F.conv_transpose2d(g, weight, stride=2, padding=1, output_padding=1)
        return into.roll(1, -1)

    return images(custom(lambda x: F.conv2d(x, weight, stride=2, padding=1), backward))


@caught(HERE)
def _() -> Case:
    """a dense layer whose weight's gradient is a hundredth too large."""

    def backward(g: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        return g @ w, 1.01 * g.T @ x

    layer = nn.Module()
    layer.weight = nn.Parameter(torch.randn(8, 8))
    layer.forward = lambda x: custom(lambda x, w: x @ w.T, backward)(x, layer.weight)  # type: ignore[method-assign]
    return vectors(layer)


@caught(HERE)
def _() -> Case:
    """a dense layer that leaves the last sample out of its weight's gradient."""

    def backward(g: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        return g @ w, g[:-1].T @ x[:-1]

    layer = nn.Module()
    layer.weight = nn.Parameter(torch.randn(8, 8))
    layer.forward = lambda x: custom(lambda x, w: x @ w.T, backward)(x, layer.weight)  # type: ignore[method-assign]
    return vectors(layer)


@caught(HERE)
def _() -> Case:
    """max pooling that spreads its gradient over the window."""

    def backward(g: Tensor, x: Tensor) -> Tensor:
        return F.interpolate(g, scale_factor=2) / 4

    return images(custom(lambda x: F.max_pool2d(x, 2), backward))


@caught(HERE)
def _() -> Case:
    """average pooling that forgets to divide its gradient."""
    return images(custom(
        lambda x: F.avg_pool2d(x, 2), lambda g, x: F.interpolate(g, scale_factor=2)
    ))  # fmt: skip


@caught(HERE)
def _() -> Case:
    """softmax with the gradient of the identity."""
    return vectors(custom(lambda x: x.softmax(1), lambda g, x: g))


@caught(HERE)
def _() -> Case:
    """a gradient that reaches the samples in another order."""
    return vectors(custom(lambda x: x.clone(), lambda g, x: g.flip(0)))


@caught(HERE)
def _() -> Case:
    """a gradient that reaches the positions of each unit in another order."""
    return images(custom(lambda x: x.clone(), lambda g, x: g.flip(-1)))


@caught(HERE)
def _() -> Case:
    """a gradient that is lost for one unit."""
    return vectors(custom(lambda x: x.clone(), lambda g, x: g * (torch.arange(8) != 3)))


@caught(HERE)
def _() -> Case:
    """a gradient that is a millionth of the whole too large in one entry only."""
    one = torch.zeros(5, 8, dtype=torch.float64)
    one[2, 3] = 0.05
    return vectors(custom(lambda x: x.clone(), lambda g, x: g * (1 + one)))


@caught(HERE)
def _() -> Case:
    """a transposition whose gradient comes back untransposed (both axes of one size)."""
    swap = custom(lambda x: x.transpose(1, 2).clone(), lambda g, x: g)
    return vectors(lambda x: swap(torch.stack([x] * 8, 2)).mean(2))


@caught(HERE)
def _() -> Case:
    """a reshape whose gradient goes back in column order."""
    mix = custom(
        lambda x: x.reshape(-1, 2, 4).clone(),
        lambda g, x: g.transpose(1, 2).reshape(-1, 8),
    )
    return vectors(lambda x: mix(x).flatten(1))


@caught(r"gradient at middle:Two")
def _() -> Case:
    """a function of two results whose gradients are exchanged."""

    class Two(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
            return x * 2, x * 3

        @staticmethod
        def backward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
            return 3 * a + 2 * b

    def middle(x: Tensor) -> Tensor:
        a, b = Two.apply(x)
        return a * 0.5 - b.relu()

    return vectors(middle)


@caught(r"Dirty in 'middle'.*overwrites its input")
def _() -> Case:
    """a function that overwrites its input and keeps the gradient."""

    class Dirty(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.mark_dirty(x)
            return x.mul_(3)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g

    return vectors(lambda x: Dirty.apply(x))


@listed(r"Restless in middle")
def _() -> Case:
    """a function that gives another result each time, so that nothing can be measured."""

    class Restless(torch.autograd.Function):
        calls = 0

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            Restless.calls += 1
            return x * (1 + 1e-12 * Restless.calls)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return 1.5 * g

    return vectors(lambda x: Restless.apply(x))


@listed(r"Single in middle")
def _() -> Case:
    """a function for float32 alone, on which no derivative can be measured."""

    class Single(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            if x.dtype != torch.float32:
                raise TypeError("expected float32")
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g

    case = vectors(lambda x: Single.apply(x))
    x, y = case.batch
    return Case(_randomise(case.model).float(), (x.float(), y))
