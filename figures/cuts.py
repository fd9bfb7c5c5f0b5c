"""Prune-to-cut ratio against iterations (figure 7)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.questions import finished
from collapse.plots import style
from figures.intervals import shades
from figures.plotting import PUBLISHED, plots

TABLE = "cuts"
NUMBERS = ("compression", "iterations", "steps", "max_prune_to_cut_ratio")
_STAR: dict[str, Any] = {"markersize": 8, "zorder": 3}
LINES = {"linear": ("--", "s"), "exponential": ("-", "o")}
CROSSES = {"linear": "+", "exponential": "x"}


def message(table: pd.DataFrame) -> str:
    """At how many compressions each schedule, with most of its iterations, stays below 1."""
    done = table[finished(table) & (table["compression"] > 1)]
    words = []
    for schedule, rows in done.groupby("schedule", sort=False):
        last = rows[rows["iterations"] == rows["iterations"].max()]
        safe = int((last["max_prune_to_cut_ratio"] < 1).sum())
        count = f" in {last['iterations'].iloc[0]:,.0f} iterations" * (schedule != "certified")
        words.append(f"{schedule}{count} at {safe} of {len(last)}")
    return f"Pruned mass stays below the cut, by compression: {', '.join(words)}"


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
                    curve["iterations"], curve["max_prune_to_cut_ratio"], marker=mark, color=shade,
                    linestyle=line if len(curve) > 2 else "none",  # two points are no curve
                )  # fmt: skip
        proved = part[part["schedule"] == "certified"]
        if len(proved):
            ratio = float(proved["max_prune_to_cut_ratio"].iloc[0])
            ax.plot(proved["steps"], [ratio] * len(proved), "*", color=shade, **_STAR)
        if published is not None:
            theirs = published[np.isclose(published["compression"], compression)]
            for name, part in theirs.groupby("schedule"):
                look = {**PUBLISHED, "marker": CROSSES[str(name)], "color": shade}
                ax.plot(part["iterations"], part["max_prune_to_cut_ratio"], **look)
        ax.plot([], [], color=shade, label=f"compression {style.number(compression)}")
    schedules = set(rows["schedule"])
    for schedule, (line, mark) in LINES.items():
        if schedule in schedules:
            ax.plot([], [], line, marker=mark, color="black", label=schedule)
    if "certified" in schedules:
        ax.plot([], [], "*", color="black", label="certified", **_STAR)
    if published is not None:
        for schedule, mark in CROSSES.items():
            ax.plot([], [], label=f"published, {schedule}", **{**PUBLISHED, "marker": mark})
    ax.axhline(1, color="black", linewidth=0.8, label="below: no layer collapses")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("iterations")
    ax.set_ylabel("largest pruned mass / cut")
    ax.set_title(f"SynFlow, {rows['model'].iloc[0]}")
