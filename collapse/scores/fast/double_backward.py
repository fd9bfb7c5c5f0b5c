"""Layers that are cheap to differentiate twice, for products with the Hessian.

A convolution is bilinear in its input and its weight, so the derivative of its backward pass is
made of forward and backward passes at other arguments, for which there are fast kernels. torch
itself turns batches into channels there. A BatchNorm in eval mode is a product and a sum, while
torch differentiates the whole normalisation.

A product with the Hessian differentiates gradients along a vector, and has no use for what they
are. Where nobody reads it (``unread``), a convolution's gradient by its weight is not computed: a
product takes 8 forward passes in place of 9.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_DIMENSIONS: dict[Callable[..., Any], int] = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_BATCH_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training")
# Stride, padding, dilation, whether transposed, output padding, groups.
_Geometry = tuple[list[int], list[int], list[int], bool, list[int], int]


_unread: ContextVar[Sequence[Tensor]] = ContextVar("unread", default=())


@contextlib.contextmanager
def unread(leaves: Sequence[Tensor]) -> Iterator[None]:
    """A backward pass in the block may give NaN for gradients by these, which nobody is to read.

    Their derivatives are right.
    """
    token = _unread.set(leaves)
    try:
        yield
    finally:
        _unread.reset(token)


def _is_unread(weight: Tensor) -> bool:
    """Not so of a weight with hooks, nor of a leaf of somebody else: those are read."""
    return any(weight is leaf for leaf in _unread.get()) and not weight._backward_hooks


class _Convolution(torch.autograd.Function):
    """``B(x, W) + bias`` with the bilinear ``B``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return torch.convolution(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        needs = tuple(ctx.needs_input_grad[:2])
        into: tuple[Tensor | None, ...] = _Backward.apply(
            gradients[0], *ctx.saved_tensors, ctx.geometry, needs
        )
        return *into, None, None


class _Backward(torch.autograd.Function):
    """``∂/∂x`` and ``∂/∂W`` of ``⟨g, B(x, W)⟩``, which are linear in ``g`` and the other one.

    Inside ``unread``, ``∂/∂W`` may be no number: only its derivatives are.
    """

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        geometry: _Geometry,
        needs: tuple[bool, bool],
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(g, x, weight)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        into_x, into_weight = needs
        if not (into_weight and _is_unread(weight)):
            return _derivatives(g, x, weight, geometry, needs)
        of_x = _derivatives(g, x, weight, geometry, (True, False))[0] if into_x else None
        return of_x, weight.new_full((), torch.nan).expand_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        g, x, weight = ctx.saved_tensors
        of_x, of_weight = gradients  # what the value depends on ∂/∂x and ∂/∂W by
        into_g = into_x = into_weight = None
        if of_x is not None:
            into_g = torch.convolution(of_x, weight, None, *ctx.geometry)
            if ctx.needs_input_grad[2]:
                into_weight = _derivatives(g, of_x, weight, ctx.geometry, (False, True))[1]
        if of_weight is not None:
            part = torch.convolution(x, of_weight, None, *ctx.geometry)
            into_g = part if into_g is None else into_g.add_(part)
            if ctx.needs_input_grad[1]:
                into_x = _derivatives(g, x, of_weight, ctx.geometry, (True, False))[0]
        return into_g, into_x, into_weight, None, None


def _derivatives(
    g: Tensor, x: Tensor, weight: Tensor, geometry: _Geometry, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    found = torch.ops.aten.convolution_backward(
        g, x, weight, None, *geometry, output_mask=[*needs, False]
    )
    return found[0], found[1]


class CheapTwice(TorchFunctionMode):
    """Inside it, convolutions and eval-mode BatchNorms are computed by the ways of this module."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():  # what is traced goes on without us
            return func(*args, **kwargs)
        if func in _DIMENSIONS:
            given = {**dict(zip(_CONVOLUTION, args, strict=False)), **kwargs}
            result = _convolution(given, _DIMENSIONS[func])
        elif func is F.batch_norm:
            given = {**dict(zip(_BATCH_NORM, args, strict=False)), **kwargs}
            result = _batch_norm(given, eps=args[7] if len(args) > 7 else kwargs.get("eps", 1e-5))
        else:
            result = None
        return func(*args, **kwargs) if result is None else result


def _convolution(given: Mapping[str, Any], dimensions: int) -> Tensor | None:
    """None where torch's own way has to do."""
    x, weight, bias = given["input"], given["weight"], given.get("bias")
    padding = given.get("padding", 0)
    if x.ndim != dimensions + 2 or isinstance(padding, str) or not torch.is_grad_enabled():
        return None
    if torch.is_autocast_enabled(x.device.type) or (bias is not None and bias.requires_grad):
        return None
    stride, padding, dilation = (
        list(value) * (dimensions // len(value))
        if isinstance(value, Sequence)
        else [int(value)] * dimensions
        for value in (given.get("stride", 1), padding, given.get("dilation", 1))
    )
    groups = given.get("groups", 1)
    geometry = (stride, padding, dilation, False, [0] * dimensions, groups)
    try:
        result: Tensor = _Convolution.apply(x, weight, bias, geometry)
    except RuntimeError:  # inside torch.func's transforms; torch itself says what else is wrong
        return None
    return result


def _batch_norm(given: Mapping[str, Any], eps: float) -> Tensor | None:
    """``x · scale + shift``, channel by channel; None where batch statistics are used."""
    x, mean, variance = given["input"], given["running_mean"], given["running_var"]
    if given.get("training", False) or mean is None or variance is None:
        return None
    scale = (variance + eps).rsqrt()
    if given.get("weight") is not None:
        scale = scale * given["weight"]
    shift = -mean * scale
    if given.get("bias") is not None:
        shift = shift + given["bias"]
    shape = (-1, *[1] * (x.ndim - 2))
    return torch.addcmul(shift.view(shape), x, scale.view(shape))
