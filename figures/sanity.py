"""Which weights, or how many in each layer? Controls minus the mask itself (question 8)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions.sanity import TABLE, answer
from collapse.options import CONTROLS
from collapse.plots import style
from figures.intervals import TOGETHER, beside, chosen, in_turn, title, zero_line
from figures.outcomes import NUMBERS, POINTS
from figures.plotting import plots

PANELS = ("compression",)
SAME_Y = True


def message(table: pd.DataFrame) -> str:
    """What each control changes, from the least of pruners and compressions to the most."""
    found = chosen(answer(table), against="as it is")
    words = []
    for control, rows in found.groupby("control", sort=False):
        words.append(f"{control} {rows['estimate'].min():+.0f} to {rows['estimate'].max():+.0f}")
    return f"Accuracy minus that of the mask itself, in points: {', '.join(words)}"


@plots(
    TABLE,
    one=("model", "dataset", "compression"),
    numbers=(*NUMBERS, "best_top1"),
    points=POINTS,
    shown=TOGETHER,
    known={"control": CONTROLS},
)
def plot(rows: pd.DataFrame, ax: Axes) -> None:
    """Top-1 accuracy of each control minus that of the mask itself, by pruner.

    Intervals of one pruner hold together (Bonferroni).
    """
    found = chosen(answer(rows), against="as it is")
    found = found.assign(name=found["pruner"].map(style.name))
    beside(found, ax, x="name", by="control", looks=in_turn(CONTROLS))
    zero_line(ax)
    ax.set_ylabel("control − mask itself (points)")
    title(found, ax, f"compression {rows['compression'].iloc[0]:,g}")
