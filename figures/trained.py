"""Magnitude and SynFlow of trained and of random weights (question 6)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions.trained import TABLE, WEIGHTS, answer
from collapse.plots import style
from figures.intervals import beside, chosen, in_turn, powers
from figures.outcomes import NUMBERS, POINTS, one_difference
from figures.plotting import plots

view = plots(TABLE, numbers=NUMBERS, points=POINTS)


@view
def plot(rows: pd.DataFrame, ax: Axes) -> None:
    """Critical compression by pruner, of random and of trained weights (geometric means)."""
    found = powers(chosen(answer(rows), quantity="log10 critical compression"))
    found = found.assign(name=found["pruner"].map(style.name))
    beside(found, ax, x="name", by="weights", looks=in_turn(WEIGHTS))
    ax.set(ylabel="critical compression", yscale="log")


@view
def accuracies(rows: pd.DataFrame, ax: Axes) -> None:
    """Top-1 accuracy of masks of trained minus of random weights, by compression."""
    one_difference(chosen(answer(rows), quantity="difference in top-1 accuracy"), ax)
    ax.set_ylabel("top-1 accuracy, trained − random (points)")


VIEWS = (plot, accuracies)
