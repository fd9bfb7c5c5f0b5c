"""Conservation laws, checked on any network: neuron by neuron, layer by layer, cut by cut.

Command line: ``python -m collapse.conservation --model resnet18 --pruner synflow``.

``docs/conservation.md`` states and proves each identity. A ledger holds its two sides wherever it
applies, and lists the operations outside the theory with the flow that each creates, so that every
cut balances to rounding. Diagnostics are numbers; the caller chooses the tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from collapse.flow import (
    FOLDS,
    INPUT,
    UNITWISE,
    Operation,
    Trace,
    Use,
    affine,
    carriers,
    created,
    fold,
    incoming,
    law,
    place,
    sources,
    through_train,
    weight_of,
)


@dataclass(frozen=True)
class Row:
    """Two sides of an identity at one place, or at every unit of it."""

    identity: str
    place: str
    lhs: Tensor
    rhs: Tensor
    scale: Tensor
    by_unit: bool = False


def ledger(trace: Trace) -> pd.DataFrame:
    """Every identity at every unit, layer and cut of a recorded pass.

    Returns:
        Columns ``identity, place, lhs, rhs, residual``, with ``residual = |lhs − rhs| /
        max(1, scale)`` and ``scale`` the absolute flow there. Units are counted from 0 in
        brackets behind the place.
    """
    rows: list[Row] = []
    for operation in trace.operations:
        rows.extend(_local(operation))
        rows.extend(_neurons(trace, operation))
    rows.extend(_cuts(trace))
    return frame_of(rows)


def frame_of(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows as a table ``identity, place, lhs, rhs, residual``; units in brackets."""
    parts = []
    for row in rows:
        lhs, rhs, scale = (
            np.atleast_1d(x.detach().cpu().double().numpy()) for x in (row.lhs, row.rhs, row.scale)
        )
        place = [f"{row.place}[{unit}]" for unit in range(len(lhs))] if row.by_unit else [row.place]
        residual = np.abs(lhs - rhs) / np.maximum(1.0, scale)
        parts.append(
            pd.DataFrame(
                {
                    "identity": row.identity,
                    "place": place,
                    "lhs": lhs,
                    "rhs": rhs,
                    "residual": residual,
                }
            )
        )
    columns = ["identity", "place", "lhs", "rhs", "residual"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _local(operation: Operation) -> Iterator[Row]:
    """The identities of one operation (DESIGN 4.1, 4.2, 4.3, 4.7, 4.8)."""
    where, kind, flow = place(operation), law(operation), operation.out_units
    out_scale = None if flow is None else operation.results[0].absolute
    if len(operation.outputs) > 1 and len(operation.results) == 1:
        together = sum(use.total for use in operation.outputs)
        yield Row("fan-out", where, _number(operation.out_total), _number(together),
                   _number(operation.out_scale))  # fmt: skip
    if kind == "linear" and flow is not None and out_scale is not None:
        weight, carried = weight_of(operation), carriers(operation)
        into_units = incoming(operation)
        if weight is None or into_units is None or weight.inputs is None:
            return
        yield Row("output units", where, into_units, flow, out_scale, by_unit=True)
        if carried and carried[0].units is not None and carried[0].absolute is not None:
            into, scale = carried[0].units, carried[0].absolute
            if into.shape == weight.inputs.shape:
                yield Row("input units", where, weight.inputs, into, scale, by_unit=True)
    elif kind == "batchnorm" and flow is not None and out_scale is not None:
        s_gamma, s_beta, fixed = affine(operation)
        carried_in = carriers(operation)[0]
        if carried_in.units is None or carried_in.absolute is None:
            return
        yield Row("batchnorm output", where, s_gamma + s_beta, flow, out_scale, by_unit=True)
        training = operation.constants["training"]
        through = through_train(operation, s_gamma) if training else flow - s_beta - fixed
        # The identity subtracts flows of the output's size from each other: that is its scale.
        scale = torch.maximum(torch.maximum(carried_in.absolute, out_scale), fixed.abs())
        name = "batchnorm train" if training else "batchnorm eval"
        yield Row(name, where, carried_in.units, through, scale, by_unit=True)
    elif kind in ("homogeneous", "scale"):
        into_total = sum(use.total for use in carriers(operation)) + sum(
            use.total for use in sources(operation)
        )
        scale_total = max(operation.out_scale, *(use.scale for use in operation.uses), 0.0)
        data = carriers(operation)
        one = data[0] if len(data) == 1 and operation.function in UNITWISE else None
        if one is not None and _matches(one.units, flow) and one.absolute is not None:
            assert one.units is not None
            assert flow is not None
            assert out_scale is not None
            scales = torch.maximum(one.absolute, out_scale)
            yield Row("homogeneous", where, one.units, flow, scales, by_unit=True)
        else:
            yield Row("homogeneous", where, _number(into_total), _number(operation.out_total),
                      _number(scale_total))  # fmt: skip
        if kind == "scale":
            for use in operation.uses:
                if use.parameter is not None:
                    yield Row("scale", f"{where} {use.parameter}", _number(use.total),
                               _number(operation.out_total), _number(scale_total))  # fmt: skip


def _matches(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.shape == other.shape


def _neurons(trace: Trace, operation: Operation) -> Iterator[Row]:
    """Incoming saliency, bias included, against outgoing saliency (DESIGN 4.4)."""
    kind = law(operation)
    if kind == "linear":
        into_units = incoming(operation)
    elif kind == "batchnorm" and operation.out_units is not None:
        s_gamma, s_beta, _ = affine(operation)
        into_units = s_gamma + s_beta
    else:
        return
    if into_units is None:
        return
    if len(operation.results) != 1 or operation.results[0].absolute is None:
        return
    outgoing, scale = _outgoing(trace, operation, len(into_units))
    if outgoing is not None and scale is not None:
        scale = torch.maximum(scale, operation.results[0].absolute)
        yield Row("neuron", place(operation), into_units, outgoing, scale, by_unit=True)


def _outgoing(
    trace: Trace, operation: Operation, units: int
) -> tuple[Tensor | None, Tensor | None]:
    """Saliency that leaves each unit of an operation's result, and its absolute flow.

    Followed through unit-wise operations to the weights that use the units; where something else
    uses them (a sum, a concatenation, the output), the measured flow along that use counts.
    """
    total: Tensor | None = None
    scales: Tensor | None = None
    for use in operation.outputs:
        part, scale = _leaving(trace, use, units)
        if part is None or scale is None:
            return None, None
        total = part if total is None else total + part
        scales = scale if scales is None else scales + scale
    return total, scales


def _leaving(trace: Trace, use: Use, units: int) -> tuple[Tensor | None, Tensor | None]:
    zero = torch.zeros(units, dtype=torch.float64)
    if use.units is None:
        return zero, zero
    measured = (fold(use.units, units), fold(use.absolute, units))
    if use.consumer is None:
        return measured
    consumer = trace.operations[use.consumer]
    if use not in carriers(consumer):
        return measured
    kind, weight = law(consumer), weight_of(consumer)
    if kind == "linear" and weight is not None and weight.inputs is not None:
        return fold(weight.inputs, units), measured[1]
    if kind == "batchnorm" and consumer.out_units is not None:
        s_gamma, s_beta, fixed = affine(consumer)
        scale = consumer.results[0].absolute
        if consumer.constants["training"]:
            return through_train(consumer, s_gamma), scale
        after, after_scale = _outgoing(trace, consumer, units)
        if after is None or after_scale is None:
            return measured
        return after - s_beta - fixed, torch.maximum(after_scale, fixed.abs())
    unitwise = consumer.function in UNITWISE or (
        consumer.function in FOLDS and consumer.out_units is not None
    )
    if unitwise and len(carriers(consumer)) == 1 and consumer.out_units is not None:
        wide = len(consumer.out_units)
        if wide % units == 0 and (wide == units or consumer.function in FOLDS):
            after, after_scale = _outgoing(trace, consumer, wide)
            return fold(after, units), fold(after_scale, units)
    return measured


def cut_layers(trace: Trace) -> list[str]:
    """The layers that are cuts by themselves: nothing flows beside them. In a chain, all."""
    carrying = _carrying(trace)
    operations = [op for op in trace.operations if op.index in carrying]
    edges = [use for op in operations for use in carriers(op)] + [trace.output]
    found = []
    for operation in operations:
        weight = weight_of(operation)
        if weight is None or weight.parameter is None:
            continue
        if not _beside(trace, edges, operation.index):
            found.append(weight.parameter)
    return found


def _beside(trace: Trace, edges: Sequence[Use], at: int) -> list[Use]:
    """The uses that jump over an operation."""
    last = len(trace.operations)
    return [
        edge for edge in edges
        if _from(edge) < at < (last if edge.consumer is None else edge.consumer)
    ]  # fmt: skip


def _cuts(trace: Trace) -> Iterator[Row]:
    """Through every layer: its saliency, what flows beside it, and all sources below (DESIGN 4.5).

    In a chain also Liang's sum over all layers (DESIGN 4.6).
    """
    carrying = _carrying(trace)
    operations = [op for op in trace.operations if op.index in carrying]
    edges = [use for op in operations for use in carriers(op)] + [trace.output]
    made = {op.index: created(op) for op in operations}
    end = trace.output.total
    scale = trace.output.scale
    layers = [op for op in operations if weight_of(op) is not None]
    chain, expected, largest = True, 0.0, 0.0
    sums: list[float] = []
    for operation in layers:
        at = operation.index
        beside = _beside(trace, edges, at)
        sources_below = [value for index, value in made.items() if index >= at]
        below = sum(sources_below)
        weight = weight_of(operation)
        assert weight is not None
        through = weight.total + sum(edge.total for edge in beside)
        size = max(scale, weight.scale, sum(map(abs, sources_below)))
        size = max(size, sum(edge.scale for edge in beside))
        yield Row("cut", place(operation), _number(through + below), _number(end), _number(size))
        chain = chain and not beside
        sums.append(weight.total)
        largest += size
        expected += end - below
    if chain and layers:
        yield Row("all layers", "network", _number(sum(sums)), _number(expected), _number(largest))


def _from(edge: Use) -> int:
    return INPUT if edge.producer is None else edge.producer


def _carrying(trace: Trace) -> set[int]:
    """Operations on the way from the input to the output, not those that only prepare a weight."""
    found: set[int] = set()
    todo = [trace.output.producer]
    while todo:
        index = todo.pop()
        if index is None or index == INPUT or index in found:
            continue
        found.add(index)
        todo.extend(use.producer for use in carriers(trace.operations[index]))
    return found


def outside(trace: Trace) -> pd.DataFrame:
    """The operations outside the theory, with the flow that each creates (or destroys).

    Returns:
        Columns ``place, operation, flow_in, flow_out, created, absolute``; ReLU6's clipped part
        counts as such an operation (``hardtanh``, ``relu6``).
    """
    carrying = _carrying(trace)
    rows = [
        {
            "place": operation.place or "network",
            "operation": operation.function,
            "flow_in": sum(use.total for use in carriers(operation)),
            "flow_out": operation.out_total,
            "created": created(operation),
            "absolute": operation.out_scale,
        }
        for operation in trace.operations
        if operation.index in carrying and law(operation) == "outside"
    ]
    columns = ["place", "operation", "flow_in", "flow_out", "created", "absolute"]
    return pd.DataFrame(rows, columns=columns)


def worst(frame: pd.DataFrame) -> pd.DataFrame:
    """The row with the largest residual of each identity, and how many places were checked."""
    if frame.empty:
        return frame.assign(places=[])
    order = frame["residual"].fillna(np.inf)
    index = order.groupby(frame["identity"], sort=False).idxmax()
    counts = frame.groupby("identity", sort=False).size()
    return frame.loc[index].assign(places=counts.to_numpy())
