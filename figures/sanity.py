"""Which weights, or how many in each layer? Controls minus the mask itself (question 8)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions.sanity import TABLE, answer
from collapse.plots import style
from figures.intervals import beside, chosen, in_turn, zero_line
from figures.outcomes import NUMBERS, POINTS
from figures.plotting import plots

PANELS = ("compression",)
CONTROLS = ("shuffled", "reinitialised", "inverted")


@plots(
    TABLE,
    one=("model", "dataset", "compression"),
    numbers=(*NUMBERS, "best_top1"),
    points=POINTS,
)
def plot(rows: pd.DataFrame, ax: Axes) -> None:
    """Top-1 accuracy of each control minus that of the mask itself, by pruner.

    Intervals of one pruner hold together (Bonferroni).
    """
    found = chosen(answer(rows), against="as it is")
    found = found.assign(name=found["pruner"].map(style.name))
    beside(found, ax, x="name", by="control", looks=in_turn(CONTROLS))
    zero_line(ax)
    ax.set_ylabel("top-1 accuracy − the mask's (points)")
    ax.set_title(f"compression {rows['compression'].iloc[0]:,g}, {ax.get_title(loc='left')}")
