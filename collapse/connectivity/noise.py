"""Values that only say connected or not: nothing over- or underflows or cancels at any depth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Connected(torch.autograd.Function):
    """Replace each value by a fixed random one in [¼, ¾] where it is not zero, in both directions.

    Nothing over- or underflows then at any depth, which a count of paths would; and operations
    that subtract (attention, a mean that is taken off by hand) do not cancel by symmetry, which
    ones would. What is not a number is the gradient of an operation where it has none, such as the
    deviation of zeros: nothing comes through.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _noise_where(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _noise_where(gradients[0])


def _noise_where(x: Tensor) -> Tensor:
    return torch.rand_like(x).mul_(0.5).add_(0.25).mul_(there(x))


def there(x: Tensor) -> Tensor:
    """Where something comes through: a number that is not zero."""
    return x.abs() > 0  # false of what is not a number


def noisy(x: Tensor) -> Tensor:
    """A random value wherever there is one, of the tensor and of the gradient that comes back."""
    result: Tensor = _Connected.apply(x)
    return result


def uneven(x: Tensor, weight: Tensor) -> Tensor:
    """The input of a linear map, each unit times a random number of its own, in [¾, 1¼].

    Weights of one value would give all units one gradient, which cancels where their mean is taken
    off.
    """
    dimensions = max(0, weight.ndim - 2)  # of a convolution
    factors = (
        torch.rand(x.shape[-dimensions - 1], device=x.device, dtype=x.dtype).mul_(0.5).add_(0.75)
    )
    return x * factors.view(-1, *(1,) * dimensions)
