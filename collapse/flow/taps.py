"""Taps: the identity on a tensor, which notes the tensor's flow when the gradient comes back."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from collapse.devices import to_float64
from collapse.flow.operations import Flow, Use

Note = Callable[[Tensor, Tensor], None]

_BLOCK = 2**18  # entries of a weight that are summed together


class Tap(torch.autograd.Function):
    """The identity, which calls ``note(x, gradient)`` in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, note: Note, leaf: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.note, ctx.leaf = note, leaf
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        (x,) = ctx.saved_tensors
        ctx.note(x, gradients[0])
        # Past a parameter only hooks want the gradient: not passing it on saves its memory.
        ends = ctx.leaf and not x._backward_hooks
        if ends:
            return None, None, None
        # See models.ContiguousGradients: in another layout, what made one sample may be wrong.
        return (gradients[0].contiguous() if x.ndim and len(x) == 1 else gradients[0]), None, None


def tap(x: Tensor, note: Note, *, leaf: bool = False) -> Tensor:
    """``x`` itself, with a note when the gradient comes back; ``leaf``: and goes no further."""
    tapped: Tensor = Tap.apply(x, note, leaf)
    return tapped


def note_of_tensor(
    use: Use, made: int | None, read: int | None, direction: Tensor | None = None
) -> Note:
    """Notes the flow by unit of the producer (axis ``made``) and of the consumer (``read``)."""
    return functools.partial(_note_tensor, use, made, read, direction)


def note_of_parameter(
    use: Use, layout: dict[str, Any], whole: bool, direction: Tensor | None = None
) -> Note:
    """Notes a parameter's saliency by output and by input unit; ``whole``: and all of it."""
    return functools.partial(_note_parameter, use, layout, whole, direction)


def _note_tensor(
    use: Use,
    made: int | None,
    read: int | None,
    direction: Tensor | None,
    x: Tensor,
    gradient: Tensor,
) -> None:
    flow = _product(x, gradient)
    if direction is not None:
        use.along = float(to_float64(_product(direction, gradient)).sum())
    made = min(1, flow.ndim - 1) if made is None else made
    read = made if read is None else read
    units = {axis: _by_unit(flow, axis) for axis in {made, read}}
    if bool(units[made].isnan().any()):  # a score of -inf, to which no gradient comes back
        flow = flow.masked_fill(gradient == 0, 0.0)
        units = {axis: _by_unit(flow, axis) for axis in {made, read}}
    flow = flow.abs_()
    flows = {axis: Flow(units[axis], _by_unit(flow, axis)) for axis in units}
    use.by_output, use.by_input = flows[made], flows[read]


def _product(x: Tensor, gradient: Tensor) -> Tensor:
    """``t ⊙ ∂R/∂t``; of complex numbers, of both their parts."""
    return (x.conj() * gradient).real if x.is_complex() else x * gradient


def _by_unit(flow: Tensor, axis: int) -> Tensor:
    """Positions are summed in the tensor's own precision, then the batch in float64."""
    flow = flow.reshape(1, -1) if flow.ndim < 2 else flow.movedim(axis, 1)
    return to_float64(flow.flatten(2).sum(-1) if flow.ndim > 2 else flow).sum(0).cpu()


def _note_parameter(
    use: Use,
    layout: dict[str, Any],
    whole: bool,
    direction: Tensor | None,
    x: Tensor,
    gradient: Tensor,
) -> None:
    if direction is not None:
        use.along = float((to_float64(gradient) * direction).sum())
    if x.ndim < 2:
        use.gradient = to_float64(gradient.detach()).reshape(-1).cpu()
    if whole or x.ndim < 2:  # else it is made block by block
        saliency = x * gradient
    if whole:
        use.saliency = saliency.detach()
    if x.ndim < 2:
        units = to_float64(saliency).reshape(-1).cpu()
        use.by_output = use.by_input = Flow(units, units.abs())
        return
    by_output, by_input, scale = _saliency_sums(x, gradient, **layout)
    scale = scale.reshape(1).cpu()
    use.by_output, use.by_input = Flow(by_output.cpu(), scale), Flow(by_input.cpu(), scale)


def _saliency_sums(
    x: Tensor, gradient: Tensor, groups: int = 1, transposed: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """``unit_sums`` of ``x ⊙ gradient``, and the sum of its absolute values.

    In blocks that stay in the cache: a large layer's product takes as long to store as to compute.
    """
    step = max(1, _BLOCK * len(x) // max(1, x.numel())) if groups == 1 else max(1, len(x))
    parts = []
    pairs = zip(torch.split(x, step), torch.split(gradient, step), strict=True)
    for weights, gradients in pairs:
        saliency = weights * gradients
        parts.append((*unit_sums(saliency, groups), to_float64(saliency.abs().sum())))
    rows, columns, scales = zip(*parts, strict=True)
    sums = torch.cat(rows), torch.stack(columns).sum(0)
    by_output, by_input = sums[::-1] if transposed else sums
    return by_output, by_input, torch.stack(scales).sum()


def unit_sums(values: Tensor, groups: int = 1, transposed: bool = False) -> tuple[Tensor, Tensor]:
    """Sums over a weight's entries: one for each unit of its output and of its input, float64.

    Args:
        values: ``[out, in / groups, …]``, of a transposed convolution ``[in, out / groups, …]``.
    """
    table = to_float64(values.flatten(2).sum(-1) if values.ndim > 2 else values)
    rows = table.sum(1)
    columns = table.reshape(groups, -1, table.shape[1]).sum(1).reshape(-1)
    return (columns, rows) if transposed else (rows, columns)
