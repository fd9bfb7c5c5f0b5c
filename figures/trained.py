"""Magnitude and SynFlow of trained and of random weights (question 6)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions.trained import TABLE, answer
from collapse.plots import style
from figures.intervals import INTERVALS, beside, chosen, powers, title
from figures.outcomes import NUMBERS, POINTS, one_difference
from figures.plotting import plots

view = plots(TABLE, numbers=NUMBERS, points=POINTS, shown=INTERVALS)
_RATIO = "difference in log10 critical compression"


def message(table: pd.DataFrame) -> str:
    """How far training moves the critical compression."""
    found = powers(chosen(answer(table), quantity=_RATIO))
    words = [
        f"{style.name(n)} × {style.number(e)}"
        for n, e in zip(found["pruner"], found["estimate"], strict=True)
    ]
    return f"Critical compression of trained over that of random weights: {', '.join(words)}"


@view
def plot(rows: pd.DataFrame, ax: Axes) -> None:
    """Critical compression of trained over that of random weights (geometric mean of ratios)."""
    found = powers(chosen(answer(rows), quantity=_RATIO))
    found = found.assign(name=found["pruner"].map(style.name))
    beside(found, ax, x="name", by="pruner")
    ax.axhline(1, color="black", linewidth=0.6)
    ax.set(ylabel="trained / random")
    title(found, ax, "critical compression")


@view
def accuracies(rows: pd.DataFrame, ax: Axes) -> None:
    """Top-1 accuracy of masks of trained minus of random weights, by compression."""
    found = chosen(answer(rows), quantity="difference in top-1 accuracy")
    one_difference(found, ax)
    title(found, ax, "top-1 accuracy")
    ax.set_ylabel("trained − random (points)")


VIEWS = (plot, accuracies)
