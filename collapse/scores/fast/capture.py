"""Linear maps of a forward, caught call by call and computed on the blocks of their weights.

No knowledge of the network's structure is needed. The model finds a *stand-in* in the place of each
weight; a linear map by one is computed on its block, and any other use of it gets the whole weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from collapse.models import tensors_in, with_contiguous_gradient
from collapse.scores.fast import matmul
from collapse.scores.fast.blocks import Block

# Entries of a score that are written and multiplied at a time, so that they stay in the cache.
_CHUNK = 1 << 19

_LINEAR = ("input", "weight", "bias")
_CONVOLUTION = (*_LINEAR, "stride", "padding", "dilation", "groups")
_MAPS: dict[Callable[..., Any], tuple[str, ...]] = {
    F.linear: _LINEAR,
    F.conv1d: _CONVOLUTION,
    F.conv2d: _CONVOLUTION,
    F.conv3d: _CONVOLUTION,
}


class Leaf:
    """A tensor to score, in one scoring.

    Attributes:
        weight: its values, or its block's; requires gradients.
        block: None if it is whole.
        stand_in: what the model sees in its place: a tensor of its shape, without memory of its
            own, and NaN wherever a call that we did not catch would read it.
        products: ``θ ⊙ ∂R/∂θ`` of the matrix products so far, None before the first.
        collecting: the forward is over, so that what is differentiated is ``R``.
        caught: a linear map of ours has used it.
        other: something else has.
    """

    def __init__(self, values: Tensor, block: Block | None, buffer: Callable[[], Tensor]) -> None:
        self.weight = values.detach().requires_grad_()
        self.block = block
        self.stand_in = self.weight
        if block is not None:
            self.stand_in = values.new_full((), float("nan")).expand(block.shape)
        self.products: Tensor | None = None
        self._buffer = buffer
        self.collecting = False
        self.caught = False
        self.other = False

    @property
    def shape(self) -> torch.Size:
        """Of the whole."""
        return self.stand_in.shape

    def whole(self) -> Tensor:
        """The weight in full; differentiable."""
        return self.weight if self.block is None else self.block.scatter(self.weight)

    def add(self, gradient: Tensor, x: Tensor) -> None:
        """Add the scores of a product ``x θᵀ``, from the gradient of its result."""
        if not self.collecting:  # a forward that differentiates something itself
            return
        theta = self.weight.detach().flatten(1)
        first = self.products is None
        if self.products is None:
            self.products = self._buffer()
        into = self.products.view_as(theta)
        step = max(1, _CHUNK // theta.shape[1])
        for start in range(0, theta.shape[0], step):
            rows = slice(start, start + step)
            if first:
                torch.mm(gradient[:, rows].t(), x, out=into[rows]).mul_(theta[rows])
            else:
                into[rows].addcmul_(gradient[:, rows].t() @ x, theta[rows])

    def scores(self, gradient: Tensor | None) -> Tensor:
        """``θ ⊙ ∂R/∂θ`` from the gradient that reached the weight itself and all products.

        In the layout of the weight: places that selection counts are places there.
        """
        theta = self.weight.detach()
        if gradient is not None and theta.is_contiguous():
            gradient = gradient.contiguous()  # a channels_last input makes it channels_last
        if self.products is None:
            # Not in place: both terms of a sum of weights are given one gradient.
            return torch.zeros_like(theta) if gradient is None else gradient * theta
        return self.products if gradient is None else self.products.addcmul_(gradient, theta)


class LinearMaps(TorchFunctionMode):
    """Inside it, linear maps by one of the leaves' stand-ins are computed on their blocks."""

    def __init__(self, leaves: Mapping[str, Leaf]) -> None:
        super().__init__()
        self._by_id = {id(leaf.stand_in): leaf for leaf in leaves.values()}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _MAPS:
            given = {**dict(zip(_MAPS[func], args, strict=False)), **kwargs}
            leaf = self._by_id.get(id(given.get("weight")))
            others = tensors_in([given.get("input"), given.get("bias")])
            alone = not any(id(x) in self._by_id for x in others)
            if leaf is not None and alone and _is_plain(leaf.weight, given):
                leaf.caught = True
                return self._map(func, leaf, given)
        elif getattr(func, "__name__", "") == "__get__":
            attribute = func(*args, **kwargs)
            if not isinstance(attribute, Tensor):  # the shape or the like, not a view
                return attribute
        given_leaves = (self._by_id.get(id(x)) for x in tensors_in((args, kwargs)))
        used = [leaf for leaf in given_leaves if leaf is not None]
        for leaf in used:
            leaf.other = True
        if any(leaf.block is not None for leaf in used):
            args, kwargs = self._whole(args), self._whole(kwargs)
        return with_contiguous_gradient(func, func(*args, **kwargs))

    def _whole(self, x: Any) -> Any:
        """Arguments with the whole weight in place of each stand-in."""
        if isinstance(x, Tensor):
            return self._by_id[id(x)].whole() if id(x) in self._by_id else x
        if isinstance(x, Mapping):
            return {key: self._whole(value) for key, value in x.items()}
        return type(x)(self._whole(part) for part in x) if type(x) in (list, tuple) else x

    def _map(self, func: Callable[..., Any], leaf: Leaf, given: Mapping[str, Any]) -> Tensor:
        """One map on its block: gather input channels, compute, scatter output channels."""
        x: Tensor = given["input"]
        bias: Tensor | None = given.get("bias")
        options = {k: v for k, v in given.items() if k not in _LINEAR}
        channels = x.ndim - leaf.weight.ndim + 1
        if leaf.block is not None and len(leaf.block.columns) < x.shape[channels]:
            x = x.index_select(channels, leaf.block.columns)
        if func is F.linear:
            y: Tensor | None = matmul.linear(x, leaf.weight, leaf.add)
        else:
            y = matmul.convolution(x, leaf.weight, options, leaf.add)
        if y is None:
            y = func(x, leaf.weight, None, **options)
        if leaf.block is not None and len(leaf.block.rows) < leaf.block.shape[0]:
            shape = (*y.shape[:channels], leaf.block.shape[0], *y.shape[channels + 1 :])
            y = y.new_zeros(shape).index_copy(channels, leaf.block.rows, y)
        if bias is None:
            return y
        return y + bias.view(-1, *[1] * (leaf.weight.ndim - 2))


def _is_plain(weight: Tensor, given: Mapping[str, Any]) -> bool:
    """Whether a map does nothing but what we know how to do on a block."""
    x = given["input"]
    return bool(
        torch.is_grad_enabled()
        and not torch.is_autocast_enabled(x.device.type)
        and x.dtype == weight.dtype
        and given.get("groups", 1) == 1
        and weight.ndim > 1
        and weight.numel() * x.numel() > 0
    )
