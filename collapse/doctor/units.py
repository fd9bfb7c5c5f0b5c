"""Which units the input reaches and which lead on to the output, and why a kept weight is dead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from collapse.connectivity import ConnectionMode, Size, mean_weight, paths, there
from collapse.errors import RequestError
from collapse.masks.counts import count
from collapse.models import (
    Inputs,
    Masks,
    Selector,
    call,
    kept_parameters,
    mapped,
    stand_ins,
    taken,
    tensors_in,
    untouched,
)


@dataclass
class Use:
    """One linear map by a layer's whole weight.

    Attributes:
        function: torch's, e.g. ``F.conv2d``.
        reached_in, reached_out: units ``[n]`` of its input and output that a path of kept weights
            from the network's input reaches.
        leads_on: units of its output from which such a path leads to the network's output.
    """

    function: Callable[..., Any]
    reached_in: Tensor
    reached_out: Tensor
    leads_on: Tensor

    def over(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """For each pair of units ``[d0, d1]`` that a weight joins: is its input unit reached, does
        its output unit lead on?"""
        rows, columns = weight.shape[:2]
        transposed = self.function in _TRANSPOSED
        near, far = self.reached_in, self.leads_on
        if transposed:  # the weight is [in, out / groups, …]
            near, far = far, near
        groups = max(1, len(near) // max(1, columns))
        columns_of = near.view(groups, 1, -1).expand(groups, rows // groups, -1).reshape(rows, -1)
        rows_of = far[:, None].expand(rows, columns)
        return (rows_of, columns_of) if transposed else (columns_of, rows_of)

    def takes(self, mask: Tensor) -> Tensor:
        """The units ``[n]`` of its input that a kept weight uses."""
        pairs = mask.flatten(2).any(2) if mask.ndim > 2 else mask
        if self.function in _TRANSPOSED:
            return pairs.any(1)
        groups = max(1, len(self.reached_in) // max(1, mask.shape[1]))
        return pairs.view(groups, -1, mask.shape[1]).any(1).flatten()


_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
Uses = dict[str, list[Use]]


class _Watching(ConnectionMode):
    """Also notes which units each layer's linear maps are reached by."""

    def __init__(self, uses: Uses, scored: Mapping[str, Tensor]) -> None:
        super().__init__(scored)
        self.uses = uses

    def linear(
        self, name: str | None, func: Callable[..., Any], args: Any, options: dict[str, Any]
    ) -> Tensor:
        result = super().linear(name, func, args, options)
        if name is not None and func is not F.bilinear:
            x, weight = _input_and_weight(args, options)
            reached = _live(x, weight), _live(result, weight)
            use = Use(func, *reached, torch.zeros_like(reached[1]))
            self.uses.setdefault(name, []).append(use)

            def note(gradient: Tensor) -> None:
                use.leads_on = _live(gradient, weight)

            if result.requires_grad:  # not under the forward's own no_grad
                result.register_hook(note)  # type: ignore[no-untyped-call]  # torch's own
        return result


def inputs_of(example: Inputs | Sequence[int], device: torch.device) -> Inputs:
    """One sample: the first of a batch, or of zeros in the shape of one input."""
    if not any(True for _ in tensors_in(example)):
        sizes = list(example) if isinstance(example, Sequence) else []
        if not sizes or not all(isinstance(n, int) for n in sizes):
            raise RequestError(
                "example: expected a batch of inputs (a tensor, a tuple or a dict), or the shape "
                f"of one input in whole numbers, such as (3, 32, 32); got {example!r}"
            )
        return torch.zeros(1, *sizes, device=device)
    one: Inputs = taken(example, slice(0, 1))
    return one


def walk(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    example: Inputs,
    *,
    output: Selector = None,
    size: Size = mean_weight,
) -> tuple[Masks, bool, Uses]:
    """``connectivity.paths``, and each layer's units on the way, in the order of the forward."""
    uses: Uses = {}
    mode = partial(_Watching, uses)
    alive, arrived = paths(model, masks, example, output=output, mode=mode, size=size)
    return alive, arrived, uses


@dataclass(frozen=True)
class Dead:
    """How many kept weights of a layer are dead, by the first cause that applies.

    Those of a weight that is used in an operation that is not looked into have none of these.

    Attributes:
        padding: they see only padding, whatever else is kept.
        no_input: no path of kept weights comes from the input.
        no_output: none leads on to the output.
    """

    padding: int = 0
    no_input: int = 0
    no_output: int = 0


def causes(mask: Tensor, alive: Tensor, kernel: Tensor, uses: list[Use]) -> Dead:
    """Why a layer's kept weights are dead.

    Args:
        kernel: which entries of its kernel ``[1, 1, …]`` see anything (``cuts.dense_kernels``).
    """
    dead = mask & ~alive
    if not bool(dead.any()):
        return Dead()
    padding = no_input = no_output = torch.zeros_like(dead)
    if any(use.function in (*_CONVOLUTIONS, *_TRANSPOSED) for use in uses):
        padding = ~kernel.expand(dead.shape)
    if uses:
        pairs = [use.over(mask) for use in uses]
        no_input, no_output = (
            ~_any(side).view(*side[0].shape, *[1] * (dead.ndim - 2)).expand(dead.shape)
            for side in zip(*pairs, strict=True)
        )
    no_output, no_input = no_output & ~no_input & ~padding, no_input & ~padding
    return Dead(*(count(dead & cause) for cause in (padding, no_input, no_output)))


def constant_inputs(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    example: Inputs,
    uses: Uses,
    *,
    output: Selector = None,
) -> dict[str, int]:
    """How many of the input units that a layer uses carry a constant: not reached, yet not zero.

    A bias or the shift of a normalisation feeds them.
    """
    tensors = stand_ins(model, dtype=torch.float32, parameter=kept_parameters(dict(masks)))
    mode = _Values({id(tensors[name]): name for name in masks})

    def drawn(x: Tensor, _: str) -> Tensor:
        return torch.randn_like(x, dtype=torch.float32) if x.is_floating_point() else x

    with untouched(model, "eval"), torch.no_grad():
        seen = mapped(drawn, example)
        with mode:
            call(model, tensors, seen, output)
    found = {}
    for name, parts in uses.items():
        if name in mode.values:
            reached = _any(use.reached_in for use in parts)
            found[name] = count(mode.values[name] & ~reached & parts[0].takes(masks[name]))
    return found


class _Values(TorchFunctionMode):
    """Notes which input units of the layers are not zero."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names, self.values = names, dict[str, Tensor]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func in ConnectionMode.linear_maps and func is not F.bilinear:
            x, weight = _input_and_weight(args, options)
            name = self.names.get(id(weight))
            if name is not None:
                seen = _live(x, weight)
                self.values[name] = seen | self.values.get(name, torch.zeros_like(seen))
        return func(*args, **options)


def _any(parts: Any) -> Tensor:
    return torch.stack(list(parts)).any(0)


def _input_and_weight(args: Any, options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    x = args[0] if args else options["input"]
    return x, args[1] if len(args) > 1 else options["weight"]


def _live(x: Tensor, weight: Tensor) -> Tensor:
    """The units of a linear map's input, result or gradient that are not zero everywhere."""
    units = x.movedim(-(weight.ndim - 1), -1)
    return there(units).reshape(units.shape[:-1].numel(), units.shape[-1]).any(0)
