"""Accuracy against compression for several networks and datasets (figure 6)."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from collapse.plots import style
from figures import accuracy
from figures.plotting import plots

TABLE = "accuracy"
PANELS: tuple[str, ...] = ("dataset", "model")
LOW = 10.0


@plots(TABLE, one=("model", "dataset"))
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """One panel, with the compressions up to 10 enlarged in an inset.

    Args:
        rows: an ``accuracy`` table of one network and dataset.
        ax: where to draw; a new figure without it.
        published: the paper's numbers, as crosses.
    """
    accuracy.plot(rows, ax=ax, published=published)
    ax.set_title(f"{rows['model'].iloc[0]}, {rows['dataset'].iloc[0]}")
    low = rows[rows["compression"] <= LOW * (1 + 1e-9)]
    if low["compression"].nunique() < 2:
        return
    inset: Any = ax.inset_axes((0.08, 0.1, 0.4, 0.42))
    for pruner, part in low.groupby("pruner", sort=False):
        mean = part.groupby("compression")["best_top1"].mean()
        inset.plot(mean.index, mean, color=style.colour(str(pruner)), linewidth=0.7)
    middle = low.groupby(["pruner", "compression"])["best_top1"].mean()
    inset.set_xscale("log")
    # What is far below the best at low compression would hide the differences among the others.
    inset.set_ylim(max(middle.min(), middle.max() - 10) - 0.5, middle.max() + 0.5)
    inset.set_xticks([1, LOW], ["1", f"{LOW:g}"])
    inset.minorticks_off()
    inset.tick_params(labelsize="x-small", pad=1)
    inset.patch.set_alpha(0.8)
