"""The network's graph with its densities: one row a node, beside it a track for all pruners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from analysis.report.charts import Axis, Densities
from analysis.report.facts import Facts, short
from analysis.report.wiring import LANES, Node

# Units of the drawing: a row is as high as 20, a lane as wide as 14.
ROW, LANE = 20, 14

# Where the tracks end: left of the scale is the place of empty layers, which have no density.
EMPTY, FIRST, LAST = 3.5, 10.0, 98.0


@dataclass(frozen=True)
class Drawing:
    """The connections of the graph, and where its nodes are.

    Attributes:
        edges: the outline of each.
        together: how many nodes have no lane of their own.
    """

    width: int
    height: int
    edges: list[str]
    rows: list[dict[str, Any]]
    together: int


def drawing(nodes: list[Node], facts: Facts) -> Drawing:
    """Of the nodes in their lanes; further lanes run together in the last."""

    def middle(row: int) -> tuple[int, int]:
        return LANE * min(nodes[row].lane, LANES - 1) + LANE // 2 + 2, ROW * row + ROW // 2

    edges, rows = [], []
    for row, node in enumerate(nodes):
        x, y = middle(row)
        for source in node.into:
            a, b = middle(source)
            bend = f"C{a} {y - ROW // 3} {x} {y - 2 * ROW // 3} {x} {y}" if a != x else f"V{y}"
            edges.append(f"M{a} {b}V{y - ROW}{bend}")
        name = short(node.name)
        cut = facts.cuts.get(name) if node.kind == "layer" else None
        rows.append({"kind": node.kind, "name": name, "layer": node.name, "x": x, "y": y,
                     "cut": cut})  # fmt: skip
    lanes = min(max((node.lane for node in nodes), default=0) + 1, LANES)
    beyond = sum(node.lane >= LANES for node in nodes)
    return Drawing(LANE * lanes + 4, ROW * len(nodes), edges, rows, beyond)


def listed_only(layers: list[str], facts: Facts) -> Drawing:
    """Where there is no wiring: the layers alone."""
    nodes = [Node("layer", layer, ()) for layer in layers]
    return drawing(nodes, facts)


def track(found: Densities) -> Axis:
    """The scale of densities."""
    return Axis(min(found.floor, 0.5), 1.0)


def place(axis: Axis, density: float, state: int) -> float:
    """Per cent of a track's width."""
    if state == 2 or density <= 0:
        return EMPTY
    return round(FIRST + (LAST - FIRST) * axis.at(density) / 100, 1)
