"""Effective against nominal compression, and accuracy against each (question 9)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.questions import answers
from collapse.plots import style
from figures.estimates import estimate, title
from figures.plotting import plots

TABLE = "outcomes"
PANELS: tuple[str, ...] = ()


@plots(TABLE, one=("model", "dataset"), numbers=("best_top1",))
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Effective over nominal compression: 1 where nothing is dead, ▲ where everything is.

    Args:
        rows: an ``outcomes`` table of one network.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    runs = answers.runs(rows)
    runs = runs[runs["compression"] > 1]
    for number, (pruner, part) in enumerate(runs.groupby("pruner", sort=False)):
        look: dict[str, Any] = {
            "color": style.colour(str(pruner)),
            "marker": style.marker(str(pruner)),
        }
        groups = list(part.groupby("compression"))
        points = [estimate(group, "effective_share", geometric=True) for _, group in groups]
        places = [float(str(compression)) for compression, _ in groups]
        ax.plot(places, [point.mean for point in points], **look, label=style.name(str(pruner)))
        for place, point in zip(places, points, strict=True):
            if point.known:
                ax.plot([place, place], [point.low, point.high], color=look["color"])
        dead = part[~np.isfinite(part["effective_compression"].astype(float))]
        for place in dead["compression"].unique():
            top, beside = ax.get_xaxis_transform(), [0.97 - 0.06 * number]  # below one another
            (mark,) = ax.plot([place], beside, "^", color=look["color"], transform=top)
            mark.set_in_layout(False)
    if not np.isfinite(runs["effective_compression"].astype(float)).all():
        ax.plot([], [], "^", color="black", label="all dead in some run")
    ax.axhline(1, color="black", linewidth=0.6)
    ax.set_xscale("log")
    if ax.get_ylim()[1] > 10:
        ax.set_yscale("log")
    ax.set_xlabel("nominal compression")
    ax.set_ylabel("effective / nominal compression")
    title(runs, ax, ["pruner", "compression"])


@plots(TABLE, one=("model", "dataset"), numbers=("best_top1",))
def accuracies(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Mean top-1 accuracy against effective compression; hollow: against nominal compression.

    Args:
        rows: an ``outcomes`` table of one network.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    runs = answers.runs(rows)
    runs = runs[runs["compression"] > 1]
    for pruner, part in runs.groupby("pruner", sort=False):
        colour, marker = style.colour(str(pruner)), style.marker(str(pruner))
        groups = [group for _, group in part.groupby("compression")]
        tops = [estimate(group, "best_top1").mean for group in groups]
        nominal = [float(group["compression"].iloc[0]) for group in groups]
        effective = [
            estimate(group.assign(x=group["effective_compression"]), "x", geometric=True).mean
            if np.isfinite(group["effective_compression"].astype(float)).all()
            else np.nan
            for group in groups
        ]
        ax.plot(nominal, tops, ":", color=colour, marker=marker, markerfacecolor="none")
        ax.plot(effective, tops, color=colour, marker=marker, label=style.name(str(pruner)))
    ax.plot([], [], ":", color="black", marker="o", markerfacecolor="none", label="nominal")
    ax.set_xscale("log")
    ax.set_xlabel("effective (hollow: nominal) compression")
    ax.set_ylabel("top-1 accuracy (%)")
    title(runs, ax, ["pruner", "compression"])


VIEWS = (plot, accuracies)
