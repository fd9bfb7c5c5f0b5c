"""Where the marks of each picture stand, in per cent of its width and height.

The pictures are plain SVG in which only positions are relative, so that they fit every width with
type and markers of one size, print sharp, follow the colours of the page, and need no library:
the one at hand weighs 4.9 MB, draws nothing that a screen reader can name and clips on paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.report.facts import Facts, short
from analysis.report.gather import Report
from analysis.report.numbers import down, near
from collapse.plots import layer_means, style

# Shades of density, from everything (0) to the least that is left.
SHADES = 10

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """Values from ``low`` to ``high`` on a scale from 0 to 100; logarithmic by default."""

    low: float
    high: float
    log: bool = True

    def at(self, value: float) -> float:
        """Per cent of the axis, with values beyond an end at that end."""
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.0
        return round(100 * min(1.0, max(0.0, share)), 2)

    def ticks(self, most: int = 7) -> list[tuple[float, str]]:
        """Powers of ten, at most so many; of less than two decades plain numbers."""
        if not self.log:
            return [(100.0 * i / 4, f"{i * self.high / 4:.0%}") for i in range(5)]
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        if last - first >= 1:
            powers = range(first, last + 1, 1 + (last - first) // most)
            return [(self.at(10.0**p), _power(p)) for p in powers]
        found = [m * 10.0**p for p in range(first - 1, last + 1) for m in (1, 2, 5)]
        return [(self.at(x), near(x)) for x in found if self.low <= x <= self.high]


def _power(exponent: int) -> str:
    if -4 < exponent < 5:
        return f"{10.0**exponent:,g}"
    return "10" + str(exponent).translate(_SUPERSCRIPT)


@dataclass(frozen=True)
class Series:
    """One pruner's marks: (x, y, what to say of it); with several seeds a band around them."""

    pruner: str
    name: str
    points: list[tuple[float, float, str]]
    band: str = ""

    @property
    def curve(self) -> str:
        """The points in a row."""
        return polygon([(x, y) for x, y, _ in self.points])


@dataclass(frozen=True)
class Chart:
    """A picture with two axes."""

    x: Axis
    y: Axis
    series: list[Series]
    line: list[tuple[float, float]] = field(default_factory=list)


def bars(facts: Facts) -> tuple[Axis, list[dict[str, Any]]]:
    """Of each pruner how far every layer lives and how far the network does, from 1 on."""
    axis = Axis(1.0, max(facts.maximal, 1.0 + 1e-9))
    rows = []
    for one in facts.outcomes:
        criticals = [found.critical for found in one.found]
        rows.append(
            {
                "outcome": one,
                "critical": axis.at(one.critical),
                "until": None if one.connected is None else axis.at(one.connected),
                "spread": (axis.at(min(criticals)), axis.at(max(criticals))),
            }
        )
    return axis, rows


@dataclass(frozen=True)
class Densities:
    """What is left of each layer by pruner and compression, averaged over seeds.

    Attributes:
        layers: in order of execution where that is known.
        values: densities ``[pruner, stop, layer]``.
        states: 0 where weights are on paths, 1 where the layer's kept weights are all dead, 2
            where it is empty (with any seed).
    """

    pruners: list[str]
    stops: list[float]
    layers: list[str]
    values: np.ndarray
    states: np.ndarray

    @property
    def floor(self) -> float:
        """The least density above 0."""
        return float(self.values[self.values > 0].min())

    def shades(self) -> np.ndarray:
        """From 0 (everything is kept) to ``SHADES - 1``, on a logarithmic scale."""
        depth = np.log(np.maximum(self.values, self.floor)) / min(np.log(self.floor), -1e-9)
        return np.asarray(np.minimum((depth * SHADES).astype(int), SHADES - 1))

    def classes(self) -> np.ndarray:
        """What each cell is drawn as: ``d0`` to ``d9``, these with ``dead``, or ``empty``."""
        words = np.char.add("d", self.shades().astype(str)).astype(object)
        words[self.states == 1] += " dead"
        words[self.states == 2] = "empty"
        return np.asarray(words)


def densities(report: Report) -> Densities | None:
    """The densities table as arrays."""
    table = report.parts["densities"].table
    if table is None:
        return None
    layers = list(report.layers)
    if report.nodes:
        run = [node.name for node in report.nodes if node.kind == "layer"]
        layers = list(dict.fromkeys([*run, *layers]))
    pruners, stops = list(table["pruner"].unique()), sorted(table["compression"].unique())
    keys = ["pruner", "compression", "layer"]
    grouped = table.astype({"kept": float, "effective_kept": float}).groupby(keys)
    cells = grouped.agg(
        density=("density", "mean"), least=("kept", "min"), living=("effective_kept", "max")
    ).reindex(pd.MultiIndex.from_product([pruners, stops, layers], names=keys))
    shape = (len(pruners), len(stops), len(layers))
    states = np.where(cells["least"] == 0, 2, np.where(cells["living"] == 0, 1, 0))
    return Densities(
        pruners, [float(stop) for stop in stops], layers,
        cells["density"].to_numpy(float).reshape(shape), states.astype(int).reshape(shape),
    )  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One pruner's part of the heat map.

    Attributes:
        cells: by their shade, the outline of all of them, one row high a layer.
        marked: the empty and the dead: kind, left, top, width and height in per cent.
        critical, until: where its layers and its paths end, in per cent; None where unknown.
    """

    pruner: str
    name: str
    cells: dict[str, str]
    marked: list[tuple[str, float, float, float, float]]
    critical: float | None
    until: float | None


def heat_map(found: Densities, facts: Facts) -> tuple[Axis, list[Panel]]:
    """Layer by compression; each cell ends at the compression that it was measured at."""
    axis = Axis(1.0, max(found.stops[-1], 1.0 + 1e-9))
    edges, classes = [axis.at(stop) for stop in found.stops], found.classes()
    own = {one.pruner: one for one in facts.outcomes if not one.certified}
    panels = []
    for p, pruner in enumerate(found.pruners):
        cells: dict[str, list[str]] = {}
        marked = []
        for row, kinds in enumerate(classes[p, 1:].T):
            for kind, left, right in _runs(kinds, edges):
                shade, high = kind.partition(" ")[0], 100 / len(found.layers)
                if shade != kind or kind == "empty":
                    word = "empty" if kind == "empty" else "dead"
                    marked.append((word, left, round(row * high, 3), right - left, round(high, 3)))
                if kind != "empty":
                    cells.setdefault(shade, []).append(f"M{left:g} {row}H{right:g}v1H{left:g}z")
        outcome = own.get(pruner)
        until = None if outcome is None else outcome.connected
        panels.append(
            Panel(
                pruner,
                style.name(pruner),
                {kind: "".join(boxes) for kind, boxes in sorted(cells.items())},
                marked,
                None if outcome is None else axis.at(outcome.critical),
                None if until is None else axis.at(until),
            )
        )
    return axis, panels


def _runs(kinds: np.ndarray, edges: list[float]) -> list[tuple[str, float, float]]:
    """Neighbours of one kind together: (kind, left, right)."""
    starts = [i for i in range(len(kinds)) if i == 0 or kinds[i] != kinds[i - 1]]
    ends = [*starts[1:], len(kinds)]
    return [(str(kinds[a]), edges[a], edges[b]) for a, b in zip(starts, ends, strict=True)]


def dead(table: pd.DataFrame | None) -> Chart | None:
    """The share of kept weights that are on no path, by compression."""
    if table is None:
        return None
    keys = ["pruner", "seed", "compression"]
    sums = table.groupby(keys, sort=False)[["kept", "effective_kept"]].sum().astype(float)
    shares = (1 - sums["effective_kept"] / sums["kept"]).rename("share")
    x, y = Axis(1.0, max(float(table["compression"].max()), 1 + 1e-9)), Axis(0.0, 1.0, log=False)
    series = []
    for pruner in table["pruner"].unique():
        over = shares.loc[pruner].groupby("compression").agg(["mean", "min", "max"])
        name = style.name(str(pruner))
        points = [
            (x.at(c), y.at(row["mean"]), f"{name} at {down(float(c))}×: {row['mean']:.1%} dead")
            for c, row in over.iterrows()
        ]
        top = [(x.at(c), y.at(row["max"])) for c, row in over.iterrows()]
        foot = [(x.at(c), y.at(row["min"])) for c, row in over[::-1].iterrows()]
        several = table["seed"].nunique() > 1
        series.append(Series(str(pruner), name, points, polygon([*top, *foot]) if several else ""))
    return Chart(x, y, series)


def polygon(points: Sequence[tuple[float, float]]) -> str:
    """As the attribute of an SVG polygon or polyline; y counts from the foot."""
    return " ".join(f"{x:g},{round(100 - y, 2):g}" for x, y in points)


def scores(table: pd.DataFrame | None) -> Chart | None:
    """Mean layer score against inverse size; each pruner's brought to a geometric mean of 1."""
    if table is None:
        return None
    inverse = 1 / table["parameters"].astype(float)
    middle = float(np.exp(np.log(inverse).mean()))
    scaled: dict[str, list[tuple[float, float, str]]] = {}
    for pruner, rows in table.groupby("pruner", sort=False):
        means = layer_means(rows)
        seen = means > 0
        unit = np.exp(np.log(means[seen]).mean()) if seen.any() else 1.0
        scaled[str(pruner)] = [
            (
                1 / size,
                mean / unit,
                f"{style.name(str(pruner))}, {short(layer)}: {near(mean / unit)}",
            )
            for size, mean, layer in zip(
                rows["parameters"][seen], means[seen], rows["layer"][seen], strict=True
            )
        ]
    heights = [y for points in scaled.values() for _, y, _ in points]
    if not heights:
        return None
    x = Axis(float(inverse.min()) / 1.3, float(inverse.max()) * 1.3)
    ends = [float(inverse.min()), float(inverse.max())]
    heights += [end / middle for end in ends]
    y = Axis(min(heights) / 1.3, max(heights) * 1.3)
    series = [
        Series(pruner, style.name(pruner), [(x.at(a), y.at(b), words) for a, b, words in points])
        for pruner, points in scaled.items()
    ]
    return Chart(x, y, series, [(x.at(end), y.at(end / middle)) for end in ends])
