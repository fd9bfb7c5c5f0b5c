"""IMP in several levels: accuracy against compression (figure 5a)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from collapse.plots import style
from figures.plotting import PUBLISHED, plots

TABLE = "accuracy"
PANELS: tuple[str, ...] = ("dataset", "model")


@plots(TABLE, one=("model", "dataset", "pruner"))
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Best top-1 accuracy of the ticket against compression, a curve a number of levels.

    Args:
        rows: an ``accuracy`` table of IMP on one network and dataset.
        ax: where to draw; a new figure without it.
        published: the paper's numbers, as crosses.
    """
    counts = sorted(rows["levels"].unique())
    shades = colormaps[style.SEQUENCE](np.linspace(0, 0.85, len(counts)))
    for levels, shade in zip(counts, shades, strict=True):
        part = rows[rows["levels"] == levels]
        curve = part.groupby("compression")["best_top1"].agg(["mean", "min", "max"])
        word = "level" if levels == 1 else "levels"
        ax.plot(curve.index, curve["mean"], "o-", color=shade, label=f"{levels} {word}")
        ax.fill_between(curve.index, curve["min"], curve["max"], color=shade, alpha=0.2, lw=0)
        if published is not None:
            theirs = published[published["levels"] == levels].sort_values("compression")
            ax.plot(theirs["compression"], theirs["best_top1"], **{**PUBLISHED, "color": shade})
    if published is not None:
        ax.plot([], [], label="published", **PUBLISHED)
    ax.set_xscale("log")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("compression")
    ax.set_ylabel("top-1 accuracy (%)")
    runs = rows["seed"].nunique()
    title = f"{rows['model'].iloc[0]}, {rows['dataset'].iloc[0]}"
    ax.set_title(f"{title} ({runs} runs)" if runs > 1 else title)
