"""Is it the score or the iteration? Every score in 1 to 300 iterations (question 1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.questions import iterations
from analysis.questions.iterations import TABLE, answer
from collapse.plots import style
from figures.intervals import INTERVALS, by_pruner, chosen, curves, powers, title
from figures.plotting import plots

view = plots(
    TABLE,
    numbers=("seed", "iterations", "critical_compression", "compression", "density"),
    shown=f"{INTERVALS}, of logarithms",
)


def message(table: pd.DataFrame) -> str:
    """Critical compressions with the fewest and with the most iterations."""
    found = powers(chosen(answer(table), quantity="log10 critical compression"))
    words = []
    for pruner, rows in found.groupby("pruner", sort=False):
        ends = rows.sort_values("iterations")["estimate"]
        start, end = style.number(ends.iloc[0]), style.number(ends.iloc[-1])
        words.append(f"{style.name(str(pruner))} {start} → {end}")
    few, most = int(found["iterations"].min()), int(found["iterations"].max())
    return f"Critical compression from {few} to {most} iterations: {', '.join(words)}"


@view
def plot(rows: pd.DataFrame, ax: Axes) -> None:
    """Critical compression against iterations (geometric means); ▽ a collapse seen below it."""
    found = powers(chosen(answer(rows), quantity="log10 critical compression"))
    curves(found, ax, x="iterations")
    runs = rows.drop_duplicates(["pruner", "iterations", "seed"])
    below = runs[runs["monotone"].astype(str).str.lower() == "false"]
    hollow: dict[str, Any] = {
        "linestyle": "none", "marker": "v", "markerfacecolor": "none", "markersize": 7,
    }  # fmt: skip
    for pruner, part in below.groupby("pruner"):
        collapse, colour = part["collapse_compression"].astype(float), style.colour(str(pruner))
        ax.plot(part["iterations"], collapse, color=colour, **hollow)
    if len(below):
        ax.plot([], [], color="black", label="a collapse below critical", **hollow)
    maximum = float(rows["maximal_compression"].iloc[0])
    ax.axhline(maximum, color="black", linestyle="--", linewidth=0.8, label="maximal")
    ax.set(xlabel="iterations", ylabel="critical compression", xscale="log", yscale="log")
    ax.set_ylim(0.7, 3 * maximum)  # an interval may reach far beyond what a compression can be
    title(found, ax, "critical compression")


@view
def densities(rows: pd.DataFrame, ax: Axes) -> None:
    """Mean density of each layer with the most iterations (solid) and with one (dotted)."""
    found, counts = iterations.densities(rows), rows["iterations"].astype(int)
    found = found.assign(seen=found["estimate"].where(found["estimate"] > 0, np.nan))
    for pruner, part in found.groupby("pruner", sort=False):
        for number, line in ((counts.min(), ":"), (counts.max(), "-")):
            one = part[part["iterations"] == number].sort_values("layer_index")
            look = by_pruner(str(pruner)) | ({} if line == "-" else {"label": None})
            ax.plot(one["layer_index"], one["seen"], line, **look)
            empty = one.loc[one["seen"].isna(), "layer_index"]
            (mark,) = ax.plot(empty, [0.0] * len(empty), "x", color=look["color"], clip_on=False)
            mark.set_transform(ax.get_xaxis_transform())
            mark.set_in_layout(False)
    ax.plot([], [], "x", color="black", label="empty")
    ax.set(xlabel="layer", ylabel="density of a layer", yscale="log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    at = f"×{rows['compression'].iloc[0]:,g}"
    ax.set_title(f"{at}: dotted {counts.min()}, solid {counts.max()} iterations")


VIEWS = (plot, densities)
