"""Cut layers, all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse.connectivity import ConnectionMode, passed_on, reach
from collapse.models import Selector, prunable, stand_ins


def cut_layers(
    model: nn.Module,
    example: Tensor,
    *,
    output: Selector = None,
    without: Collection[str] = (),
) -> frozenset[str]:
    """The layers that every input→output path crosses (``connectivity.is_cut_layer`` is true).

    Where a path is left without a whole group of layers, none of them is a cut layer; only groups
    without which there is none are looked into, half by half.

    Args:
        without: layers that are empty already: the cut layers of what is left.

    Returns:
        Names; none where there is no path to begin with.
    """
    layers = [name for name in prunable(model) if name not in without]

    def arrives(*gone: str) -> bool:
        return _arrives(model, {*without, *gone}, example, output)

    def cuts(group: list[str]) -> list[str]:
        if not group or arrives(*group):
            return []
        middle = len(group) // 2
        return cuts(group[:middle]) + cuts(group[middle:]) if middle else group

    return frozenset(cuts(layers)) if arrives() else frozenset()


def _arrives(model: nn.Module, gone: set[str], example: Tensor, output: Selector) -> bool:
    layers = prunable(model)

    def parameter(name: str, value: Tensor) -> Tensor:
        if name in layers:  # one number in memory, whatever the layer's size
            return value.new_tensor(float(name not in gone)).expand(value.shape)
        bias = "bias" in name.rpartition(".")[2]
        return torch.zeros_like(value) if bias else torch.ones_like(value)

    tensors = stand_ins(model, dtype=torch.float32, parameter=parameter)
    scored = {name: tensors[name] for name in layers}
    return reach(model, tensors, scored, {}, example, output=output, mode=_Uniform)[1]


class _Uniform(ConnectionMode):
    """All weights of a layer are the same, so that one output unit stands for all of its group."""

    def linear(
        self, name: str | None, func: Callable[..., Any], args: Any, options: dict[str, Any]
    ) -> Tensor:
        if func not in _MAPS:
            return super().linear(name, func, args, options)
        given = dict(zip(_MAPS[func], args, strict=False)) | options
        x, weight = given.pop("input"), given.pop("weight")
        if name is None and not bool((weight == weight.flatten()[0]).all()):
            return super().linear(name, func, args, options)
        if func is F.linear:
            one = F.linear(x, weight[:1])
            return passed_on(one.expand(*one.shape[:-1], len(weight)))
        channels = weight.ndim - 1  # counted from the end: a batch may be missing
        groups = x.shape[-channels] // weight.shape[1]
        x = x.unflatten(-channels, (groups, -1)).sum(-channels)
        given |= {"bias": None, "groups": groups}
        one = func(x, weight[:groups, :1], **given)
        return passed_on(one.repeat_interleave(len(weight) // groups, -channels))


_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_MAPS: dict[Any, tuple[str, ...]] = {
    F.linear: ("input", "weight", "bias"),
    **dict.fromkeys([F.conv1d, F.conv2d, F.conv3d], _CONVOLUTION),
}
