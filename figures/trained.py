"""Magnitude and SynFlow of trained and of random weights (question 6)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions import answers
from collapse.plots import style
from figures.estimates import beside, in_turn, zero_line
from figures.plotting import plots

TABLE = "outcomes"
PANELS: tuple[str, ...] = ()
WEIGHTS = ("random", "trained")


@plots(TABLE)
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Critical compression by pruner, of random and of trained weights (geometric means).

    Args:
        rows: an ``outcomes`` table of one network with both weights.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    runs = answers.runs(rows)
    alone = runs[runs["best_top1"].isna()]
    alone = alone.assign(name=alone["pruner"].map(style.name))
    value, looks = "critical_compression", in_turn(WEIGHTS)
    beside(alone, ax, x="name", by="weights", value=value, looks=looks, geometric=True)
    ax.set_ylabel("critical compression")


@plots(TABLE)
def accuracies(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Top-1 accuracy of masks of trained minus of random weights, by compression.

    Args:
        rows: an ``outcomes`` table of one network with both weights.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    runs = answers.runs(rows).dropna(subset=["best_top1"]).drop(columns="levels")
    found = answers.paired(runs, "best_top1", "weights", "random")
    what = "_difference"  # one kind needs no legend
    found = found.assign(
        what=what,
        at=found["pruner"].map(style.name) + "\n×" + found["compression"].map("{:,g}".format),
    )
    beside(found, ax, x="at", by="what", value="difference", looks=in_turn([what]))
    zero_line(ax)
    ax.set_ylabel("top-1 accuracy, trained − random (points)")


VIEWS = (plot, accuracies)
