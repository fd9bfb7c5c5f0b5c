"""Prune-to-cut ratio against iterations (figure 7)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from collapse.plots import style
from figures.intervals import shades
from figures.plotting import PUBLISHED, plots

TABLE = "cuts"
NUMBERS = ("compression", "iterations", "steps", "max_prune_to_cut_ratio")
_STAR: dict[str, Any] = {"markersize": 8, "zorder": 3}
LINES = {"linear": ("--", "s"), "exponential": ("-", "o")}


@plots(TABLE, one=("model", "pruner"), numbers=NUMBERS)
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None = None) -> None:
    """Largest pruned score mass over the cut, by schedule and compression; safe below 1.

    The certified schedule takes as many iterations as it needs: a star at its number of steps.
    """
    for compression, shade in shades(c for c in rows["compression"].unique() if c > 1).items():
        part = rows[rows["compression"] == compression]
        for schedule, (line, mark) in LINES.items():
            curve = part[part["schedule"] == schedule].sort_values("iterations")
            if len(curve):
                ax.plot(
                    curve["iterations"], curve["max_prune_to_cut_ratio"], line, marker=mark,
                    color=shade,
                )  # fmt: skip
        proved = part[part["schedule"] == "certified"]
        if len(proved):
            ratio = float(proved["max_prune_to_cut_ratio"].iloc[0])
            ax.plot(proved["steps"], [ratio] * len(proved), "*", color=shade, **_STAR)
        if published is not None:
            theirs = published[np.isclose(published["compression"], compression)]
            ax.plot(theirs["iterations"], theirs["max_prune_to_cut_ratio"], **PUBLISHED)
        ax.plot([], [], color=shade, label=f"to {style.number(compression)}")
    schedules = set(rows["schedule"])
    for schedule, (line, mark) in LINES.items():
        if schedule in schedules:
            ax.plot([], [], line, marker=mark, color="black", label=schedule)
    if "certified" in schedules:
        ax.plot([], [], "*", color="black", label="certified", **_STAR)
    if published is not None:
        ax.plot([], [], label="published", **PUBLISHED)
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("iterations")
    ax.set_ylabel("largest pruned mass / cut")
    ax.set_title(f"SynFlow, {rows['model'].iloc[0]}")
