"""Does the pruner matter at low compression? Accuracy minus the dense network's (question 5)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions.low_compression import TABLE, answer
from figures.intervals import beside, chosen, zero_line
from figures.outcomes import NUMBERS, POINTS
from figures.plotting import plots

PANELS = ("dataset", "model")


@plots(TABLE, one=("model", "dataset"), numbers=(*NUMBERS, "best_top1"), points=POINTS)
def plot(rows: pd.DataFrame, ax: Axes) -> None:
    """Top-1 accuracy minus that of the dense network of the same seed, by compression and pruner.

    Intervals of one compression hold together (Bonferroni).
    """
    found = chosen(answer(rows), against="dense").sort_values("compression", kind="stable")
    found = found.assign(at=found["compression"].map("{:,g}".format))
    beside(found, ax, x="at", by="pruner")
    zero_line(ax, "dense")
    ax.set(xlabel="compression", ylabel="top-1 accuracy − dense (points)")
