"""Is it the score or the iteration? Every score in 1 to 300 iterations (question 1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.questions import iterations
from analysis.questions.iterations import TABLE, answer
from collapse.plots import style
from figures.intervals import by_pruner, chosen, curves, powers, title
from figures.plotting import plots

view = plots(
    TABLE,
    numbers=("seed", "iterations", "critical_compression", "compression", "density"),
)


@view
def plot(rows: pd.DataFrame, ax: Axes) -> None:
    """Critical compression against iterations (geometric means); ▽ a collapse seen below it."""
    found = powers(chosen(answer(rows), quantity="log10 critical compression"))
    curves(found, ax, x="iterations")
    runs = rows.drop_duplicates(["pruner", "iterations", "seed"])
    below = runs[runs["monotone"].astype(str).str.lower() == "false"]
    hollow: dict[str, Any] = {"linestyle": "none", "marker": "v", "markerfacecolor": "none"}
    for pruner, part in below.groupby("pruner"):
        collapse, colour = part["collapse_compression"].astype(float), style.colour(str(pruner))
        ax.plot(part["iterations"], collapse, color=colour, **hollow)
    if len(below):
        ax.plot([], [], color="black", label="collapse below it", **hollow)
    maximum = float(rows["maximal_compression"].iloc[0])
    ax.axhline(maximum, color="black", linestyle="--", linewidth=0.8, label="maximal")
    ax.set(xlabel="iterations", ylabel="critical compression", xscale="log", yscale="log")
    ax.set_ylim(0.7, 3 * maximum)  # an interval may reach far beyond what a compression can be
    title(found, ax)


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
    ax.set(xlabel="layer", ylabel="density of a layer", yscale="log")
    at = f"compression {rows['compression'].iloc[0]:,g}"
    ax.set_title(f"{at}, {counts.min()} (dotted) and {counts.max()} iterations")


VIEWS = (plot, densities)
