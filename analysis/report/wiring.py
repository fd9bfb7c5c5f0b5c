"""Which layer follows which: the network as a graph of its layers, and where to draw it.

The graph is read off one recorded forward (``collapse.flow``), so it holds for whatever Python the
forward runs. Operations without a prunable weight vanish into the connections, except where
several come together (a sum, a concatenation, a product): these are nodes of their own, because a
skip past a layer could not be seen otherwise.

The drawing is the one of version-control logs: one row a node, in order of execution; each node
stays in its lane until the last of its consumers.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from collapse.flow import INPUT, Operation, Trace, record
from collapse.models import output_sum, stand_ins, taken
from collapse.problem import Problem

Kind = Literal["input", "layer", "join", "output"]

# Further lanes run together in the last one: a dense block has as many as layers.
LANES = 8

_SIGNS = {"add": "+", "sub": "−", "mul": "×", "cat": "joined", "matmul": "×", "bmm": "×"}


@dataclass(frozen=True)
class Node:
    """One row of the graph.

    Attributes:
        name: the layer's weight; of a join, its sign.
        into: the rows that it takes from.
        lane: from 0, the leftmost.
    """

    kind: Kind
    name: str
    into: tuple[int, ...]
    lane: int = 0


def wiring(problem: Problem) -> list[Node]:
    """The nodes of a network in order of execution, from its input to its output.

    Raises:
        RequestError: what ``flow.record`` raises.

    Example:
        >>> chain = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
        >>> nodes = wiring(Problem(chain, [(torch.ones(1, 2), torch.zeros(1).long())]))
        >>> [(node.name, node.into) for node in nodes]
        [('input', ()), ('0.weight', (0,)), ('1.weight', (1,)), ('output', (2,))]
    """
    one = taken(problem.example, slice(0, 1))
    trace = record(problem.model, stand_ins(problem.model), one, output_sum, problem.output)
    return placed(_leading_on(nodes_of(trace, problem.dense())))


def nodes_of(trace: Trace, layers: Collection[str]) -> list[Node]:
    """A recorded pass, contracted to its layers and joins."""
    nodes = [Node("input", "input", ())]
    behind: dict[int, frozenset[int]] = {INPUT: frozenset([0])}  # of an operation: its nodes
    weights: dict[int, tuple[str, ...]] = {}  # of an operation on parameters alone
    for operation in trace.operations:
        data = [use for use in operation.uses if not use.learned]
        own = _weights(operation, layers, weights)
        if not data:
            weights[operation.index] = own
            continue
        sources = [behind.get(use.origin.operation, frozenset()) for use in data if use.origin]
        into = frozenset().union(*sources)
        if own:
            first = len(nodes)
            nodes += [Node("layer", name, tuple(sorted(into))) for name in own]
            into = frozenset(range(first, len(nodes)))
        elif len(into) > 1:
            sign = _SIGNS.get(operation.function.strip("_"), operation.function)
            nodes.append(Node("join", sign, tuple(sorted(into))))
            into = frozenset([len(nodes) - 1])
        behind[operation.index] = into
    end = trace.output.origin
    into = behind.get(end.operation, frozenset()) if end else frozenset()
    return [*nodes, Node("output", "output", tuple(sorted(into)))]


def _weights(
    operation: Operation, layers: Collection[str], prepared: dict[int, tuple[str, ...]]
) -> tuple[str, ...]:
    """The layers whose weights an operation uses, as they are or prepared by others."""
    found: list[str] = []
    for use in operation.uses:
        if use.parameter in layers and use.parameter is not None:
            found.append(use.parameter)
        elif use.learned and use.origin is not None:
            found += prepared.get(use.origin.operation, ())
    return tuple(dict.fromkeys(found))


def _leading_on(nodes: list[Node]) -> list[Node]:
    """Without joins from which nothing leads to the output; layers stay."""
    wanted = {len(nodes) - 1} | {i for i, node in enumerate(nodes) if node.kind != "join"}
    for i in range(len(nodes) - 1, -1, -1):
        if i in wanted:
            wanted |= set(nodes[i].into)
    new = {old: i for i, old in enumerate(sorted(wanted))}
    return [replace(nodes[old], into=tuple(new[i] for i in nodes[old].into)) for old in new]


def placed(nodes: list[Node]) -> list[Node]:
    """Each node in a lane that is free from its row to that of its last consumer."""
    last = {source: row for row, node in enumerate(nodes) for source in node.into}
    holders: list[int | None] = []  # of each lane, the row that it belongs to
    found = []
    for row, node in enumerate(nodes):
        ended = {source for source in node.into if last[source] == row}
        holders = [None if holder in ended else holder for holder in holders]
        lane = holders.index(None) if None in holders else len(holders)
        holders[lane : lane + 1] = [row if row in last else None]
        found.append(replace(node, lane=lane))
    return found
