"""Means over seeds with their intervals, side by side: what the questions' figures share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.questions import statistics
from collapse.errors import RequestError
from collapse.plots import style

# Of what is no pruner: modes, controls, weights.
_OTHERS = (
    {"color": "#0072b2", "marker": "o"},
    {"color": "#d55e00", "marker": "s"},
    {"color": "#009e73", "marker": "^"},
    {"color": "#cc79a7", "marker": "D"},
)


def by_pruner(value: str) -> dict[str, Any]:
    """A pruner's look and name."""
    label = "IMP" if value == "imp" else style.name(value)
    return {"color": style.colour(value), "marker": style.marker(value), "label": label}


def in_turn(values: Sequence[str]) -> Callable[[str], dict[str, Any]]:
    """A look for each of these values, which are no pruners."""
    looks = {value: {**look, "label": value} for value, look in zip(values, _OTHERS, strict=False)}
    return lambda value: looks[value]


def beside(
    rows: pd.DataFrame,
    ax: Axes,
    *,
    x: str,
    by: str,
    value: str,
    looks: Callable[[str], Mapping[str, Any]],
    geometric: bool = False,
) -> None:
    """A mean with its interval for each of ``x`` and ``by``; values of ``by`` stand side by side.

    Intervals are Student's over seeds, of the level that ``comparisons`` asks for where there is
    such a column. Without enough seeds there is a mean alone, and the title says so.

    Args:
        x: categories in the order of the rows.
        by: what is told apart by colour and marker.
        looks: of a value of ``by``: colour, marker, label.
        geometric: take means of logarithms.
    """
    values = rows[value].astype(float)
    rows = rows.assign(**{value: values.where(values > 0) if geometric else values})
    rows = rows.dropna(subset=[value])
    if rows.empty:
        raise RequestError(f"nothing to draw: the table has no '{value}'")
    places = {category: place for place, category in enumerate(rows[x].unique())}
    series = list(rows[by].unique())
    for number, one in enumerate(series):
        shift = 0.7 * ((number + 0.5) / len(series) - 0.5)
        look = dict(looks(str(one)))
        for category, part in rows[rows[by] == one].groupby(x, sort=False):
            point = estimate(part, value, geometric=geometric)
            at = places[category] + shift
            ax.plot([at], [point.mean], linestyle="none", **look)
            look.pop("label", None)  # one entry in the legend
            if point.known:
                ax.plot([at, at], [point.low, point.high], color=look["color"])
    ax.set_xticks(range(len(places)), [str(category) for category in places])
    ax.set_xlim(-0.5, len(places) - 0.5)
    if geometric:
        ax.set_yscale("log")
    title(rows, ax, [x, by])


def estimate(part: pd.DataFrame, value: str, *, geometric: bool = False) -> statistics.Estimate:
    """The mean over the rows with its interval; of logarithms, back on the scale of the values."""
    level = statistics.LEVEL
    if "comparisons" in part:
        level = statistics.together(int(part["comparisons"].iloc[0]))
    values = part[value].astype(float)
    if not geometric:
        return statistics.mean(values, level)
    found = statistics.mean(np.log10(values[values > 0]), level)
    middle, low, high = (float(10**end) for end in (found.mean, found.low, found.high))
    return statistics.Estimate(middle, low, high, found.seeds, level)


def title(rows: pd.DataFrame, ax: Axes, groups: Sequence[str]) -> None:
    """Networks, datasets and seeds; of too few seeds for an interval, that there is none."""
    counts = rows.groupby(list(groups), dropna=False)["seed"].nunique()
    few, most = int(counts.min()), int(counts.max())
    seeds = f"{few} seed" + "s" * (few != 1) if few == most else f"{few} to {most} seeds"
    if few < statistics.FEWEST:
        seeds += ": too few for an interval"
    names = [", ".join(map(str, rows[column].unique())) for column in ("model", "dataset")]
    ax.set_title(f"{', '.join(names)} ({seeds})")


def zero_line(ax: Axes, label: str | None = None) -> None:
    """Where there is no difference."""
    ax.axhline(0, color="black", linewidth=0.6, label=label)
