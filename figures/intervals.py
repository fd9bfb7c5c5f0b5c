"""Answers drawn: means with the intervals that they come with, side by side or along a curve."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from collapse.errors import RequestError
from collapse.plots import style

Looks = Callable[[Any], Mapping[str, Any]]
# What bars are, of every figure that draws answers.
INTERVALS = "Points: means over seeds; bars: 95 % intervals (Student's t)"
TOGETHER = "Bars: 95 % intervals that hold together in a panel (Student's t, Bonferroni)"
RANGE = "Lines: means over runs; bands: their range, as in the paper"


def by_pruner(value: str) -> dict[str, Any]:
    """A pruner's look and name."""
    look = {"color": style.colour(value), "marker": style.marker(value)}
    return {**look, "label": style.name(value)}


def in_turn(values: Sequence[str]) -> Looks:
    """A look for each of these values, which are no pruners."""
    looks = {
        value: {"color": colour, "marker": marker, "label": value}
        for value, (colour, marker) in zip(values, style.VARIANTS, strict=False)
    }
    return lambda value: looks[value]


def shades(values: Iterable[float]) -> dict[float, Any]:
    """Colours from dark to bright, in the order of the values."""
    ordered = sorted(values)
    colours = colormaps[style.SEQUENCE](np.linspace(0, 0.85, len(ordered)))
    return dict(zip(ordered, colours, strict=True))


def chosen(answers: pd.DataFrame, **equal: object) -> pd.DataFrame:
    """The answers whose columns are so: ``quantity``, ``against``, ….

    Raises:
        RequestError: there is none.
    """
    for column, value in equal.items():
        answers = answers[answers[column] == value]
    if answers.empty:
        raise RequestError(f"nothing to draw: no answer with {equal}")
    return answers


def _check_some(answers: pd.DataFrame) -> None:
    if answers.empty:
        raise RequestError("nothing to draw: what is finished answers nothing yet")


def powers(answers: pd.DataFrame) -> pd.DataFrame:
    """Back from logarithms."""
    ends = ["estimate", "low", "high"]
    return answers.assign(**{end: 10.0 ** answers[end].astype(float) for end in ends})


def beside(answers: pd.DataFrame, ax: Axes, *, x: str, by: str, looks: Looks = by_pruner) -> None:
    """A mean with its interval for each of ``x`` and ``by``; values of ``by`` stand side by side.

    Args:
        x: categories in the order of the rows.
        by: what is told apart by colour and marker.
        looks: of a value of ``by``: colour, marker, label.
    """
    _check_some(answers)
    places = {category: place for place, category in enumerate(answers[x].unique())}
    # Where each place has one value alone, it stands in the middle.
    alone = answers.groupby(x)[by].nunique().max() == 1
    series = 1 if alone else answers[by].nunique()
    for number, (value, rows) in enumerate(answers.groupby(by, sort=False)):
        aside = 0.0 if alone else 0.7 * ((number + 0.5) / series - 0.5)
        at = rows[x].map(places) + aside
        _means(rows.assign(at=at), ax, "at", {**looks(value), "linestyle": "none"}, band=False)
    ax.set_xticks(range(len(places)), [str(category) for category in places])
    ax.set_xlim(-0.5, len(places) - 0.5)
    title(answers, ax)


def curves(
    answers: pd.DataFrame,
    ax: Axes,
    *,
    x: str = "compression",
    by: str = "pruner",
    looks: Looks = by_pruner,
    band: bool = False,
) -> None:
    """Means with their intervals along ``x``, a curve for each value of ``by``."""
    _check_some(answers)
    for value, rows in answers.groupby(by, sort=False):
        _means(rows.sort_values(x), ax, x, looks(value), band)


def _means(rows: pd.DataFrame, ax: Axes, x: str, look: Mapping[str, Any], band: bool) -> None:
    ax.plot(rows[x], rows["estimate"], **look)
    known = rows.dropna(subset=["low", "high"])
    ends = known[x], known["low"], known["high"]
    if band:
        ax.fill_between(*ends, color=look["color"], alpha=0.2, linewidth=0)
    else:
        ax.vlines(*ends, color=look["color"])


def title(answers: pd.DataFrame, ax: Axes, what: str = "") -> None:
    """What a panel shows and on how many seeds; of too few for an interval, that there is none."""
    _check_some(answers)
    few, most = int(answers["seeds"].min()), int(answers["seeds"].max())
    seeds = f"{few} seed" + "s" * (few != 1) if few == most else f"{few} to {most} seeds"
    if answers["low"].isna().any():
        seeds += ": too few for an interval"
    names = [", ".join(map(str, answers[column].unique())) for column in ("model", "dataset")]
    ax.set_title(f"{what or ', '.join(names)} ({seeds})")


def zero_line(ax: Axes, label: str | None = None) -> None:
    """Where there is no difference."""
    ax.axhline(0, color="black", linewidth=0.6, label=label)
