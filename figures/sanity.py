"""Which weights, or how many in each layer? Controls minus the mask itself (question 8)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions import answers
from collapse.plots import style
from figures.estimates import beside, in_turn, zero_line
from figures.plotting import plots

TABLE = "outcomes"
PANELS: tuple[str, ...] = ("compression",)
CONTROLS = ("shuffled", "reinitialised", "inverted")


@plots(TABLE, one=("model", "dataset", "compression"), numbers=("best_top1",))
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Top-1 accuracy of each control minus that of the mask itself, by pruner.

    Intervals of one pruner hold together (Bonferroni).

    Args:
        rows: an ``outcomes`` table of one network and compression, with its controls.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    found = answers.paired(answers.runs(rows), "best_top1", "control", None)
    found = found.assign(name=found["pruner"].map(style.name))
    looks = in_turn(CONTROLS)
    beside(found, ax, x="name", by="control", value="difference", looks=looks)
    zero_line(ax)
    ax.set_ylabel("top-1 accuracy − the mask's (points)")
    ax.set_title(f"compression {rows['compression'].iloc[0]:,g}, {ax.get_title(loc='left')}")
