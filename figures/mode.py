"""SNIP and GraSP scored in train and in eval mode (question 2)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions import answers
from collapse.plots import style
from figures.estimates import beside, in_turn, title, zero_line
from figures.plotting import plots

TABLE = "outcomes"
PANELS: tuple[str, ...] = ()
MODES = ("train", "eval")


@plots(TABLE, one=())
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Critical compression of each pruner on each network, by mode (geometric means).

    Args:
        rows: an ``outcomes`` table in both modes.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    runs = answers.runs(rows)
    once = runs.drop_duplicates(["model", "dataset", "pruner", "mode", "seed"])
    once = once.assign(at=once["pruner"].map(style.name) + "\n" + once["model"])
    value, looks = "critical_compression", in_turn(MODES)
    beside(once, ax, x="at", by="mode", value=value, looks=looks, geometric=True)
    ax.set_ylabel("critical compression")


@plots(TABLE, one=())
def accuracies(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Top-1 accuracy in train mode minus that in eval mode, by compression, of what was trained.

    Args:
        rows: an ``outcomes`` table in both modes.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    runs = answers.runs(rows).dropna(subset=["best_top1"])
    found = answers.paired(runs, "best_top1", "mode", "eval")
    found = found.assign(
        at=found["pruner"].map(style.name) + "\n×" + found["compression"].map("{:,g}".format)
    )
    looks = in_turn(["_difference"])  # one kind needs no legend
    beside(found.assign(what="_difference"), ax, x="at", by="what", value="difference", looks=looks)
    zero_line(ax)
    ax.set_ylabel("top-1 accuracy, train − eval (points)")


@plots(TABLE, one=())
def densities(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Mean density of each layer at the highest compression, of the network with most layers.

    Args:
        rows: an ``outcomes`` table in both modes.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    deep = rows[rows["layer_index"] == rows["layer_index"].max()]["model"].iloc[0]
    part = rows[(rows["model"] == deep)]
    part = part[part["compression"] == part["compression"].max()]
    for (pruner, mode), group in part.groupby(["pruner", "mode"], sort=False):
        middle = group.groupby("layer_index")["density"].mean()
        seen = middle[middle > 0]  # a logarithm has no zero
        solid = mode == MODES[0]
        label = f"{style.name(str(pruner))}, {mode}"
        ax.plot(
            seen.index, seen, "-" if solid else ":", color=style.colour(str(pruner)),
            marker=style.marker(str(pruner)), label=label,
            markerfacecolor=None if solid else "none",
        )  # fmt: skip
    ax.set_yscale("log")
    ax.set_xlabel("layer")
    ax.set_ylabel("density of a layer")
    title(part, ax, ["pruner", "mode"])
    ax.set_title(f"compression {part['compression'].iloc[0]:,g}, {ax.get_title(loc='left')}")


VIEWS = (plot, accuracies, densities)
