"""Accuracy against compression for several networks and datasets (figure 6)."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions.accuracy import TABLE, answer
from collapse.plots import style
from figures import accuracy
from figures.plotting import plots

PANELS = accuracy.PANELS
LOW = 10.0


@plots(TABLE, one=("model", "dataset"), numbers=accuracy.NUMBERS)
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None = None) -> None:
    """One panel of figure 1, with the compressions up to 10 enlarged in an inset."""
    accuracy.plot.draw(rows, ax, published)
    ax.set_title(f"{rows['model'].iloc[0]}, {rows['dataset'].iloc[0]}")
    found = answer(rows)
    low = found[found["compression"] <= LOW * (1 + 1e-9)].sort_values("compression")
    if low["compression"].nunique() < 2:
        return
    inset: Any = ax.inset_axes((0.08, 0.1, 0.4, 0.42))
    for pruner, part in low.groupby("pruner", sort=False):
        colour = style.colour(str(pruner))
        inset.plot(part["compression"], part["estimate"], color=colour, linewidth=0.7)
    least, most = low["estimate"].min(), low["estimate"].max()
    inset.set_xscale("log")
    # What is far below the best at low compression would hide the differences among the others.
    inset.set_ylim(max(least, most - 10) - 0.5, most + 0.5)
    inset.set_xticks([1, LOW], ["1", f"{LOW:g}"])
    inset.minorticks_off()
    inset.tick_params(labelsize="x-small", pad=1)
    inset.patch.set_alpha(0.8)
