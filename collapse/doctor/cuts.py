"""The network with all weights of a layer alike: cut layers, and kernels that only see padding."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse.connectivity import (
    ConnectionMode,
    Size,
    constant,
    mean_weight,
    noisy,
    reach,
    there,
    uneven,
)
from collapse.models import Inputs, Masks, Selector, compute_dtype, prunable, stand_ins


def cut_layers(
    model: nn.Module,
    example: Inputs,
    *,
    output: Selector = None,
    without: Collection[str] = (),
    size: Size = mean_weight,
) -> frozenset[str]:
    """The layers that every input→output path crosses (``connectivity.is_cut_layer`` is true).

    Where a path is left without a whole group of layers, none of them is a cut layer; only groups
    without which there is none are looked into, half by half.

    Args:
        without: layers that are empty already: the cut layers of what is left.
        size: what stands for weights.

    Returns:
        Names; none where there is no path to begin with.
    """
    layers = [name for name in prunable(model) if name not in without]

    def arrives(*gone: str) -> bool:
        gone_now = {*without, *gone}
        return dense_kernels(model, example, output=output, without=gone_now, size=size)[1]

    def cuts(group: list[str]) -> list[str]:
        if not group or arrives(*group):
            return []
        middle = len(group) // 2
        return cuts(group[:middle]) + cuts(group[middle:]) if middle else group

    return frozenset(cuts(layers)) if arrives() else frozenset()


def dense_kernels(
    model: nn.Module,
    example: Inputs,
    *,
    output: Selector = None,
    without: Collection[str] = (),
    size: Size = mean_weight,
) -> tuple[Masks, bool]:
    """Which entries of each kernel are on a path when everything is kept, and whether there is one.

    An entry that is on none sees only padding, at this input size.

    Returns:
        By layer ``[1, 1, *kernel]``; a layer that the input never reaches has no such entry.
    """
    layers = prunable(model)
    kernels: dict[str, Tensor] = {}

    def parameter(name: str, value: Tensor) -> Tensor:
        if name not in layers:
            return constant(name, value, size)
        # One number for all units, so that a layer takes no memory and hardly any time.
        kernel = torch.full_like(value[:1, :1], size(value) * (name not in without))
        kernels[name] = kernel.requires_grad_(not without)
        return kernel.expand(value.shape)

    tensors = stand_ins(model, dtype=compute_dtype(model), parameter=parameter)
    scored = {name: tensors[name] for name in layers}
    wanted = {} if without else kernels
    gradients, arrived = reach(
        model, tensors, scored, wanted, example, output=output, mode=_Uniform
    )
    seen = {
        name: torch.zeros_like(kernels[name]).bool() if gradient is None else there(gradient)
        for name, gradient in zip(wanted, gradients, strict=True)
    }
    return seen, arrived


class _Uniform(ConnectionMode):
    """All units of a layer have the same weights, so that one stands for all of its group."""

    def linear(
        self, name: str | None, func: Callable[..., Any], args: Any, options: dict[str, Any]
    ) -> Tensor:
        if func not in _MAPS:
            return super().linear(name, func, args, options)
        given = dict(zip(_MAPS[func], args, strict=False)) | options
        x, weight = given.pop("input"), given.pop("weight")
        if not weight.numel() or (name is None and not bool((weight == weight[:1, :1]).all())):
            return super().linear(name, func, args, options)
        x = uneven(x, weight)
        if func is F.linear:
            one = F.linear(x, weight[:1])
            return noisy(one.expand(*one.shape[:-1], len(weight)))
        channels = weight.ndim - 1  # counted from the end: a batch may be missing
        groups = x.shape[-channels] // weight.shape[1]
        x = x.reshape(*x.shape[:-channels], groups, -1, *x.shape[1 - channels :]).sum(-channels)
        given |= {"bias": None, "groups": groups}
        one = func(x, weight[:groups, :1], **given)
        return noisy(one.repeat_interleave(len(weight) // groups, -channels))


_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_MAPS: dict[Any, tuple[str, ...]] = {
    F.linear: ("input", "weight", "bias"),
    **dict.fromkeys([F.conv1d, F.conv2d, F.conv3d], _CONVOLUTION),
}
