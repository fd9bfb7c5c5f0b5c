"""Convolutions and linear maps as matrix products.

For scores of the form ``θ ⊙ ∂R/∂θ`` of one sample, the backward pass does not form ``∂R/∂W``. It
hands ``(∂R/∂y, x)`` to a callback, the *sink*, which writes scores into a buffer of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

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
    shape = _Shape.of(x, weight, options)
    if shape is None or len(x) * shape.positions > _POSITIONS:
        return None
    return shape.folded(linear(shape.patches(x), weight.flatten(1), sink))


@dataclass(frozen=True)
class _Shape:
    """What a plain two-dimensional convolution does with positions."""

    kernel: tuple[int, ...]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    size: tuple[int, int]  # of the output

    @classmethod
    def of(cls, x: Tensor, weight: Tensor, options: Mapping[str, Any]) -> _Shape | None:
        """None for any other convolution, and where no position is left."""
        if weight.ndim != 4 or x.ndim != 4 or isinstance(options.get("padding"), str):
            return None
        kernel = tuple(weight.shape[2:])
        defaults = {"stride": 1, "padding": 0, "dilation": 1}
        stride, padding, dilation = (pair_of(options.get(k, v)) for k, v in defaults.items())
        height, width = (
            (x.shape[2 + d] + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1
            for d in (0, 1)
        )
        if min(height, width) < 1:
            return None
        return cls(kernel, stride, padding, dilation, (height, width))

    @property
    def positions(self) -> int:
        return self.size[0] * self.size[1]

    def patches(self, x: Tensor) -> Tensor:
        """What each position sees: ``[batch, positions, in · kernel]``."""
        unfolded: Tensor = F.unfold(x, self.kernel, self.dilation, self.padding, self.stride)
        return unfolded.transpose(1, 2)

    def folded(self, y: Tensor) -> Tensor:
        """From ``[batch, positions, out]``; contiguous, because a forward may view it."""
        return y.transpose(1, 2).reshape(len(y), -1, *self.size).contiguous()


_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class InFloat64(TorchFunctionMode):
    """Inside it, float64 convolutions of few positions are matrix products.

    torch's own, on a CPU, take 2 to 8 times as long (torch 2.15.0).
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.conv2d and not torch.compiler.is_compiling():
            given = {**dict(zip(_CONVOLUTION, args, strict=False)), **kwargs}
            x, weight, bias = given["input"], given["weight"], given.get("bias")
            shape = _Shape.of(x, weight, given)
            few = shape is not None and shape.positions <= _POSITIONS
            if shape and few and given.get("groups", 1) == 1 and x.dtype == torch.float64:
                return shape.folded(F.linear(shape.patches(x), weight.flatten(1), bias))
        return func(*args, **kwargs)


def pair_of(value: int | Sequence[int]) -> tuple[int, int]:
    """A size of both axes, or one of each, as torch takes it."""
    pair = tuple(value) if isinstance(value, Sequence) else (int(value),)
    return pair[0], pair[-1]
