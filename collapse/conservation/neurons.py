"""Theorem 1 with biases: what flows into each unit flows out of it (DESIGN 4.4)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from collapse.conservation.rows import Row
from collapse.flow import (
    Flow,
    Operation,
    Trace,
    Use,
    affine,
    carriers,
    incoming,
    law,
    place,
    through_train,
    weight_of,
)


def neurons(trace: Trace, operation: Operation) -> Iterator[Row]:
    """Incoming saliency, bias included, against outgoing saliency.

    Of units that carry data: what makes a weight (``u @ v``) has none.
    """
    if all(use.learned for use in operation.uses):
        return
    into, out = incoming(operation), operation.out
    if law(operation) == "batchnorm" and out is not None:
        s_gamma, s_beta, _ = affine(operation)
        into = s_gamma + s_beta
    if into is None or out is None:
        return
    leaving = _outgoing(trace, operation, None, len(into))
    scale = torch.maximum(leaving.scale, out.scale)
    yield Row("neuron", place(operation), into, leaving.units, scale, by_unit=True)


def _outgoing(trace: Trace, operation: Operation, labels: Tensor | None, units: int) -> Flow:
    """The flow that leaves each unit along all uses of an operation's result.

    Followed through unit-wise operations to the weights that use the units; where something else
    uses them (a sum, a concatenation, the output), the measured flow along that use counts.

    Args:
        labels: the unit of each unit of the operation's result; None: one by one.
    """
    total = Flow.none(units)
    for use in operation.outputs:
        if use.by_output is not None:
            total = total.plus(_leaving(trace, use, use.by_output).onto(labels, units))
    return total


def _leaving(trace: Trace, use: Use, measured: Flow) -> Flow:
    """The same along one use, by unit of the tensor that is used."""
    consumer = None if use.consumer is None else trace.operations[use.consumer]
    if consumer is None or not use.aligned or use not in carriers(consumer):
        return measured
    count, weight = len(measured.units), weight_of(consumer)
    if weight is not None and weight.by_input is not None:
        matches = len(weight.by_input.units) == count
        return Flow(weight.by_input.units, measured.scale) if matches else measured
    if law(consumer) == "batchnorm" and consumer.out is not None:
        s_gamma, s_beta, fixed = affine(consumer)
        if consumer.norm["training"]:
            return Flow(through_train(consumer, s_gamma), consumer.out.scale)
        after = _outgoing(trace, consumer, None, count)
        scale = torch.maximum(after.scale, fixed.abs())
        return Flow(after.units - s_beta - fixed, scale)
    if consumer.follows and len(consumer.results) == 1:
        return _outgoing(trace, consumer, consumer.labels, count)
    return measured
