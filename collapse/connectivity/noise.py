"""Values that only say connected or not: nothing over- or underflows or cancels at any depth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Connected(torch.autograd.Function):
    """Replace each value by a fixed random one in [¼, ¾] where it is not zero, in both directions.

    Nothing over- or underflows then at any depth, which a count of paths would; and operations
    that subtract (attention, a normalisation that we do not know) do not cancel by symmetry,
    which ones would.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _noise_where(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _noise_where(gradients[0])


def _noise_where(x: Tensor) -> Tensor:
    return torch.rand_like(x).mul_(0.5).add_(0.25).mul_(x != 0)


def noisy(x: Tensor) -> Tensor:
    """A random value wherever there is one, of the tensor and of the gradient that comes back."""
    result: Tensor = _Connected.apply(x)
    return result
