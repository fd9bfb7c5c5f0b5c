"""Small networks with room for a fault in their middle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.conservation.planted import Case
from tests.zoo import _randomise


class Around(nn.Module):
    """``c2(relu(fault(c1(x))))``: the fault is the module ``middle``."""

    def __init__(self, middle: Callable[[Tensor], Tensor] | nn.Module) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 3)
        self.middle = middle if isinstance(middle, nn.Module) else Middle(middle)

    def forward(self, x: Tensor) -> Tensor:
        return self.c3(self.c2(self.middle(self.c1(x))).relu())


class Middle(nn.Module):
    """A module of one function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Images(nn.Module):
    """The same between two convolutions."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.middle, self.head = Middle(middle), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c2(self.middle(self.c1(x))).relu().mean((2, 3)))


class Normed(nn.Module):
    """Convolutions with BatchNorm, for faults of mode."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.n1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.c2, self.n2 = nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.n2(self.c2(self.n1(self.c1(x)).relu())).relu()
        return self.head(x.mean((2, 3)))


def vectors(middle: Any, **options: Any) -> Case:
    """A case on vectors in float64."""
    batch = (torch.randn(5, 6, dtype=torch.float64), torch.arange(5) % 3)
    return Case(_randomise(Around(middle)).double(), batch, **options)


def images(middle: Callable[[Tensor], Tensor], **options: Any) -> Case:
    """A case on small images in float64."""
    return Case(_randomise(Images(middle)).double(), image_batch(), **options)


def image_batch(size: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 2, 6, 6, dtype=torch.float64), torch.arange(size) % 3


def normed(**options: Any) -> Case:
    """A case with BatchNorm in float64."""
    return Case(_randomise(Normed()).double(), image_batch(), **options)


def custom(forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    """An autograd.Function of two plain functions.

    Args:
        forward: of the inputs.
        backward: of (gradient, *inputs), the gradient of each input.
    """

    class Custom(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Tensor) -> Tensor:
            ctx.save_for_backward(*inputs)
            return forward(*inputs)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Any:
            return backward(gradient, *ctx.saved_tensors)

    return Custom.apply
