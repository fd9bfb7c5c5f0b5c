"""Does the pruner matter at low compression? Accuracy minus the dense network's (question 5)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions.low_compression import TABLE, answer
from collapse.plots import style
from figures.intervals import TOGETHER, beside, chosen, zero_line
from figures.outcomes import NUMBERS, POINTS
from figures.plotting import plots

PANELS = ("dataset", "model")


def message(table: pd.DataFrame) -> str:
    """How many differences from the dense network are more than chance, and the largest."""
    found = chosen(answer(table), against="dense")
    known = found[found["low"].notna()]
    sure = known[(known["low"] > 0) | (known["high"] < 0)]
    most = found.sort_values("estimate", key=abs).iloc[-1]
    at = f"{style.name(most['pruner'])} at compression {most['compression']:,g}"
    chance = (
        f"{len(sure)} of {len(known)} differences from the dense network are beyond chance"
        if len(known)
        else f"{len(found)} differences from the dense network, of too few seeds for intervals"
    )
    return f"{chance}; the largest: {most['estimate']:+.1f} points ({at})"


@plots(
    TABLE,
    one=("model", "dataset"),
    numbers=(*NUMBERS, "best_top1"),
    points=POINTS,
    shown=TOGETHER,
)
def plot(rows: pd.DataFrame, ax: Axes) -> None:
    """Top-1 accuracy minus that of the dense network of the same seed, by compression and pruner.

    Intervals of one compression hold together (Bonferroni).
    """
    found = chosen(answer(rows), against="dense").sort_values("compression", kind="stable")
    found = found.assign(at=found["compression"].map("{:,g}".format))
    beside(found, ax, x="at", by="pruner")
    zero_line(ax, "dense")
    ax.set(xlabel="compression", ylabel="top-1 accuracy − dense (points)")
