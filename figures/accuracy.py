"""Accuracy against compression (figure 1; a panel of figure 6)."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from collapse.plots import style
from figures.plotting import PUBLISHED, plots

TABLE = "accuracy"
PANELS: tuple[str, ...] = ("dataset", "model")


# No pruner's own marker looks like it.
_CRITICAL: dict[str, Any] = {
    "marker": "|", "linestyle": "none", "markersize": 11, "markeredgewidth": 2, "clip_on": False,
    "zorder": 3,
}  # fmt: skip


@plots(TABLE, one=("model", "dataset"))
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Best top-1 test accuracy against compression: mean and range over runs, by pruner.

    A bar at the foot marks each pruner's critical compression, a dashed line the maximum.

    Args:
        rows: an ``accuracy`` table of one network and dataset.
        ax: where to draw; a new figure without it.
        published: the paper's numbers (``analysis.published``), as crosses.
    """
    runs, marked = rows["seed"].nunique(), False
    for pruner, part in rows.groupby("pruner", sort=False):
        name = str(pruner)
        look: dict[str, Any] = {"color": style.colour(name), "label": style.name(name)}
        curve = part.groupby("compression")["best_top1"].agg(["mean", "min", "max"])
        ax.plot(curve.index, curve["mean"], marker=style.marker(name), **look)
        ax.fill_between(
            curve.index, curve["min"], curve["max"], color=look["color"], alpha=0.2, linewidth=0
        )
        for value in _critical(part):
            foot = ax.get_xaxis_transform()
            (bar,) = ax.plot([value], [0], color=look["color"], transform=foot, **_CRITICAL)
            bar.set_in_layout(False)  # it stands in the axis: the layout needs no room for it
            marked = True
    if marked:
        (bar,) = ax.plot([], [], color="black", label="critical compression", **_CRITICAL)
        bar.set_in_layout(False)
    ax.set_xscale("log")
    maximum = rows["maximal_compression"].dropna()
    if len(maximum) and maximum.iloc[0] <= 1.3 * rows["compression"].max():
        ax.axvline(maximum.iloc[0], color="black", linestyle="--", linewidth=0.8, label="maximal")
    if published is not None:
        for pruner, part in published.groupby("pruner", sort=False):
            mean = part.groupby("compression")["best_top1"].mean()
            ax.plot(mean.index, mean, **{**PUBLISHED, "color": style.colour(str(pruner))})
        ax.plot([], [], label="published", **PUBLISHED)
    ax.set_ylim(0, max(1.0, 1.05 * float(rows["best_top1"].max())))
    ax.set_xlabel("compression")
    ax.set_ylabel("top-1 accuracy (%)")
    word = "run" if runs == 1 else "runs"
    ax.set_title(f"{rows['model'].iloc[0]}, {rows['dataset'].iloc[0]} ({runs} {word})")


def _critical(part: pd.DataFrame) -> list[float]:
    """The critical compression over runs: their geometric middle, where it is one a run."""
    values = part.dropna(subset=["critical_compression"])
    if values.empty or (values.groupby("seed")["critical_compression"].nunique() > 1).any():
        return []
    return [float(values.groupby("seed")["critical_compression"].first().median())]
