"""Is it the score or the iteration? Every score in 1 to 300 iterations (question 1)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from collapse.plots import style
from figures.estimates import estimate, title
from figures.plotting import plots

TABLE = "iterations"
PANELS: tuple[str, ...] = ()


@plots(TABLE)
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Critical compression against iterations (geometric means); ▽ a collapse seen below it.

    Args:
        rows: an ``iterations`` table of one network.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    runs = rows.drop_duplicates(["pruner", "iterations", "seed"])
    below = runs[runs["monotone"].astype(str).str.lower() == "false"]
    for pruner, part in runs.groupby("pruner", sort=False):
        colour = style.colour(str(pruner))
        groups = list(part.groupby("iterations"))
        points = [estimate(group, "critical_compression", geometric=True) for _, group in groups]
        places = [int(str(iterations)) for iterations, _ in groups]
        ax.plot(
            places, [point.mean for point in points],
            color=colour, marker=style.marker(str(pruner)), label=style.name(str(pruner)),
        )  # fmt: skip
        for place, point in zip(places, points, strict=True):
            if point.known:
                ax.plot([place, place], [point.low, point.high], color=colour)
        low = below[below["pruner"] == pruner].astype({"collapse_compression": float})
        ax.plot(
            low["iterations"], low["collapse_compression"], "v",
            color=colour, markerfacecolor="none",
        )  # fmt: skip
    if len(below):
        ax.plot([], [], "v", color="black", markerfacecolor="none", label="collapse below it")
    maximum = float(runs["maximal_compression"].iloc[0])
    ax.axhline(maximum, color="black", linestyle="--", linewidth=0.8, label="maximal")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("iterations")
    ax.set_ylabel("critical compression")
    title(runs, ax, ["pruner", "iterations"])


@plots(TABLE)
def densities(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Mean density of each layer with the most iterations (solid) and with one (dotted).

    Args:
        rows: an ``iterations`` table of one network.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    counts = rows["iterations"].astype(int)
    for pruner, part in rows.groupby("pruner", sort=False):
        for iterations, line in ((counts.min(), ":"), (counts.max(), "-")):
            one = part[part["iterations"] == iterations]
            middle = one.groupby("layer_index")["density"].mean()
            label = style.name(str(pruner)) if line == "-" else None
            ax.plot(
                middle.index, middle.where(middle > 0, np.nan), line, label=label,
                color=style.colour(str(pruner)), marker=style.marker(str(pruner)),
            )  # fmt: skip
    ax.set_yscale("log")
    ax.set_xlabel("layer")
    ax.set_ylabel("density of a layer")
    at = f"compression {rows['compression'].iloc[0]:,g}"
    ax.set_title(f"{at}, {counts.min()} (dotted) and {counts.max()} iterations")


VIEWS = (plot, densities)
