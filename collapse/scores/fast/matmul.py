"""Linear maps of one sample as matrix products, for scores of the form ``θ ⊙ ∂R/∂θ``.

The backward pass does not form ``∂R/∂W``. It hands ``(∂R/∂y, x)`` to a callback, the *sink*, which
writes scores into a buffer of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Takes ``∂R/∂y`` of shape ``[positions, out]`` and the inputs ``[positions, in]`` of a product.
Sink = Callable[[Tensor, Tensor], None]
# Up to so many output positions a convolution is faster as a matrix product.
_POSITIONS = 64


class _Product(torch.autograd.Function):
    """``x Wᵀ``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, sink: Sink) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.sink = sink
        return torch.mm(x, weight.t())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        ctx.sink(gradient, x)
        return gradient @ weight if ctx.needs_input_grad[0] else None, None, None


def linear(x: Tensor, weight: Tensor, sink: Sink) -> Tensor:
    """``x Wᵀ`` for ``x`` of shape ``[…, in]``."""
    product: Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), weight, sink)
    return product.view(*x.shape[:-1], -1)


def convolution(x: Tensor, weight: Tensor, options: Mapping[str, Any], sink: Sink) -> Tensor | None:
    """A convolution without groups and bias; None where torch's own is the faster way.

    Of few positions, reading the weights is what takes the time: a product with all patches of
    ``x`` does that at the speed of memory.
    """
    if weight.ndim != 4 or x.ndim != 4 or isinstance(options.get("padding"), str):
        return None
    kernel = weight.shape[2:]
    defaults = {"stride": 1, "padding": 0, "dilation": 1}
    stride, padding, dilation = (_pair(options.get(k, v)) for k, v in defaults.items())
    size = [
        (x.shape[2 + d] + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1
        for d in (0, 1)
    ]
    if min(size) < 1 or len(x) * size[0] * size[1] > _POSITIONS:
        return None
    patches = F.unfold(x, kernel, dilation, padding, stride)
    y = linear(patches.transpose(1, 2), weight.flatten(1), sink)
    return y.transpose(1, 2).reshape(len(x), -1, *size).contiguous()  # a forward may view it


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    pair = (value,) if isinstance(value, int) else tuple(value)
    return pair[0], pair[-1]
