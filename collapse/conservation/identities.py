"""Conservation laws, checked on any network: neuron by neuron, layer by layer, cut by cut.

Command line: ``python -m collapse.conservation --model resnet18 --pruner synflow``.

``docs/conservation.md`` states and proves each identity. A ledger holds its two sides wherever it
applies, and lists the operations outside the theory with the flow that each creates, so that every
cut balances to rounding. Diagnostics are numbers; the caller chooses the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pandas as pd
import torch

from collapse.conservation.cuts import carrying, cuts
from collapse.conservation.neurons import neurons
from collapse.conservation.rows import Row, frame_of, number
from collapse.flow import (
    UNITWISE,
    Operation,
    Trace,
    affine,
    carriers,
    created,
    incoming,
    law,
    place,
    sources,
    through_train,
    weight_of,
)


def ledger(trace: Trace) -> pd.DataFrame:
    """Every identity at every unit, layer and cut of a recorded pass.

    Returns:
        Columns ``identity, place, lhs, rhs, residual``, with ``residual = |lhs − rhs| /
        max(1, scale)`` and ``scale`` the absolute flow there. Units are counted from 0 in
        brackets behind the place.
    """
    rows: list[Row] = []
    for operation in trace.operations:
        rows += _fan_out(operation)
        rows += _gradient(operation)
        rows += IDENTITIES[law(operation)](operation)
        rows += neurons(trace, operation)
    return frame_of([*rows, *cuts(trace)])


def _fan_out(operation: Operation) -> Iterator[Row]:
    """``F(t) = Σ F(t)`` over the uses of ``t``: nothing changed a gradient between them."""
    for result in operation.results:
        uses = [use for use in operation.outputs if use.origin == result.origin]
        if uses and result.by_output is not None:
            together = sum(use.total for use in uses)
            scale = max(result.scale, sum(use.scale for use in uses))
            yield Row(
                "fan-out", place(operation), number(result.total), number(together), number(scale)
            )


def _gradient(operation: Operation) -> Iterator[Row]:
    """``⟨∂R/∂x, v⟩ = ⟨∂R/∂y, (f(x + hv) − f(x − hv)) / 2h⟩`` of a function of the user's own."""
    into = [use.along for use in operation.uses if use.along is not None]
    if into:
        out = sum(result.along or 0.0 for result in operation.results)
        scale = max(operation.out_scale, sum(use.scale for use in operation.uses))
        yield Row("gradient", place(operation), number(sum(into)), number(out), number(scale))


def _linear(operation: Operation) -> Iterator[Row]:
    """``Σ S(W_j·) + S(b_j) = F(z)_j`` and ``Σ S(W_·i) = F(a)_i`` (DESIGN 4.1)."""
    weight, into, out = weight_of(operation), incoming(operation), operation.out
    if weight is None or weight.by_input is None or into is None or out is None:
        return
    yield Row("output units", place(operation), into, out.units, out.scale, by_unit=True)
    for use in carriers(operation):
        if use.by_input is not None and use.by_input.units.shape == weight.by_input.units.shape:
            lhs, rhs = weight.by_input.units, use.by_input.units
            yield Row("input units", place(operation), lhs, rhs, use.by_input.scale, by_unit=True)


def _batchnorm(operation: Operation) -> Iterator[Row]:
    """``F(y) = S(γ) + S(β)``; ``F(z) = F(y) − S(β) − S(b′)``, or ``ε/(v + ε) S(γ)`` (4.7, 4.8)."""
    into, out = carriers(operation)[0].by_input, operation.out
    if into is None or out is None:
        return
    where, training = place(operation), operation.norm["training"]
    s_gamma, s_beta, fixed = affine(operation)
    yield Row("batchnorm output", where, s_gamma + s_beta, out.units, out.scale, by_unit=True)
    through = through_train(operation, s_gamma) if training else out.units - s_beta - fixed
    # The identity subtracts flows of the output's size from each other: that is its scale.
    scale = torch.maximum(torch.maximum(into.scale, out.scale), fixed.abs())
    name = "batchnorm train" if training else "batchnorm eval"
    yield Row(name, where, into.units, through, scale, by_unit=True)


def _homogeneous(operation: Operation) -> Iterator[Row]:
    """``F(out) = F(in)``, unit by unit where units map one to one (DESIGN 4.2, 4.3)."""
    data, out = carriers(operation), operation.out
    one = data[0].by_input if len(data) == 1 and operation.function in UNITWISE else None
    if one is not None and out is not None and one.units.shape == out.units.shape:
        scale = torch.maximum(one.scale, out.scale)
        yield Row("homogeneous", place(operation), one.units, out.units, scale, by_unit=True)
        return
    into = sum(use.total for use in (*data, *sources(operation)))
    yield Row("homogeneous", place(operation), number(into), number(operation.out_total),
              _scale(operation))  # fmt: skip


def _scale_law(operation: Operation) -> Iterator[Row]:
    """``S(g) = F(x) = F(g ⊙ x)`` in total, for a learned ``g`` (DESIGN 4.11)."""
    out = number(operation.out_total)
    into = sum(use.total for use in carriers(operation))
    yield Row("homogeneous", place(operation), number(into), out, _scale(operation))
    for use in operation.uses:
        if use.learned:
            where = f"{place(operation)} {use.parameter or 'factor'}"
            yield Row("scale", where, number(use.total), out, _scale(operation))


def _nothing(operation: Operation) -> Iterator[Row]:
    """Outside the theory: listed with the flow that it creates."""
    yield from ()


def _scale(operation: Operation) -> torch.Tensor:
    return number(max(operation.out_scale, *(use.scale for use in operation.uses), 0.0))


IDENTITIES: dict[str, Callable[[Operation], Iterator[Row]]] = {
    "linear": _linear,
    "batchnorm": _batchnorm,
    "homogeneous": _homogeneous,
    "scale": _scale_law,
    "outside": _nothing,
}


def outside(trace: Trace) -> pd.DataFrame:
    """The operations outside the theory, with the flow that each creates (or destroys).

    Returns:
        Columns ``place, operation, flow_in, flow_out, created, absolute``; ReLU6's clipped part
        counts as such an operation (``hardtanh``, ``relu6``). Values that were taken from an
        activation without their gradient are listed with no flow.
    """
    rows = [
        {
            "place": operation.place or "network",
            "operation": operation.function,
            "flow_in": sum(use.total for use in carriers(operation)),
            "flow_out": operation.out_total,
            "created": created(operation),
            "absolute": operation.out_scale,
        }
        for operation in carrying(trace)
        if law(operation) == "outside"
    ]
    for where, function in trace.detached:
        nothing = dict.fromkeys(("flow_in", "flow_out", "created", "absolute"), 0.0)
        rows.append({"place": where or "network", "operation": f"{function} (detached)", **nothing})
    columns = ["place", "operation", "flow_in", "flow_out", "created", "absolute"]
    return pd.DataFrame(rows, columns=columns)
