"""Theorem 2 with biases: what crosses any cut, with the sources below, is one number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from collapse.conservation.rows import Row, number
from collapse.flow import INPUT, Operation, Trace, Use, carriers, created, place, weight_of


def carrying(trace: Trace) -> list[Operation]:
    """Operations on the way from the input to the output, not those that only prepare a weight."""
    found: set[int] = set()
    todo = [trace.output.producer]
    while todo:
        index = todo.pop()
        if index is None or index == INPUT or index in found:
            continue
        found.add(index)
        todo.extend(use.producer for use in carriers(trace.operations[index]))
    return [operation for operation in trace.operations if operation.index in found]


def behind(trace: Trace, weight: Use) -> list[str]:
    """The parameters that the weight of a linear map is, or was made of."""
    if weight.parameter is not None:
        return [weight.parameter]
    names: list[str] = []
    todo, seen = [weight.producer], {INPUT, None}
    while todo:
        index = todo.pop()
        if index is None or index in seen:
            continue
        seen.add(index)
        uses = trace.operations[index].uses
        names += [use.parameter for use in uses if use.parameter is not None]
        todo += [use.producer for use in uses]
    return names


def crossed_layers(trace: Trace) -> list[str]:
    """The layers through which a cut was checked, also those whose weight is computed."""
    weights = [weight_of(operation) for operation in carrying(trace)]
    found = [name for weight in weights if weight is not None for name in behind(trace, weight)]
    return list(dict.fromkeys(found))


def cut_layers(trace: Trace) -> list[str]:
    """The layers that are cuts by themselves: nothing flows beside them. In a chain, all."""
    operations = carrying(trace)
    edges = _edges(trace, operations)
    found = []
    for operation in operations:
        weight = weight_of(operation)
        direct = weight is not None and weight.parameter is not None and carriers(operation)
        if direct and not _beside(trace, edges, operation.index):
            assert weight is not None
            assert weight.parameter is not None
            found.append(weight.parameter)
    return found


def _edges(trace: Trace, operations: Sequence[Operation]) -> list[Use]:
    return [use for operation in operations for use in carriers(operation)] + [trace.output]


def _beside(trace: Trace, edges: Sequence[Use], at: int) -> list[Use]:
    """The uses that jump over an operation."""
    last = len(trace.operations)
    return [
        edge for edge in edges
        if _from(edge) < at < (last if edge.consumer is None else edge.consumer)
    ]  # fmt: skip


def _from(edge: Use) -> int:
    return INPUT if edge.producer is None else edge.producer


def _leaving(operation: Operation, crossing: set[int]) -> float:
    """What goes aside into preparing a weight: a parameter may have two ways to the output."""
    return sum(use.total for use in operation.outputs if id(use) not in crossing)


def cuts(trace: Trace) -> Iterator[Row]:
    """Through every layer: its saliency, what flows beside it, and all sources below (DESIGN 4.5).

    In a chain also Liang's sum over all layers (DESIGN 4.6).
    """
    operations = carrying(trace)
    edges = _edges(trace, operations)
    crossing = {id(edge) for edge in edges}
    made = {op.index: created(op) - _leaving(op, crossing) for op in operations}
    end, scale = trace.output.total, trace.output.scale
    chain, sums, expected, largest = True, [], 0.0, 0.0
    for operation in operations:
        weight = weight_of(operation)
        if weight is None:
            continue
        at = operation.index
        beside = _beside(trace, edges, at)
        sources_below = [value for index, value in made.items() if index >= at]
        below = sum(sources_below)
        # A weight that is applied to a constant is a source itself, and counted as one.
        own = weight.total if carriers(operation) else 0.0
        through = own + sum(edge.total for edge in beside)
        size = max(scale, weight.scale, sum(map(abs, sources_below)))
        size = max(size, sum(edge.scale for edge in beside))
        yield Row("cut", place(operation), number(through + below), number(end), number(size))
        chain = chain and not beside
        sums.append(own)
        largest += size
        expected += end - below
    if chain and sums:
        yield Row("all layers", "network", number(sum(sums)), number(expected), number(largest))
