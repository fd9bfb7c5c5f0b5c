"""Does the pruner matter at low compression? Accuracy minus the dense network's (question 5)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions import answers
from figures.estimates import beside, by_pruner, zero_line
from figures.plotting import plots

TABLE = "outcomes"
PANELS: tuple[str, ...] = ("dataset", "model")


@plots(TABLE, one=("model", "dataset"), numbers=("best_top1",))
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Top-1 accuracy minus that of the dense network of the same seed, by compression and pruner.

    Intervals of one compression hold together (Bonferroni).

    Args:
        rows: an ``outcomes`` table of one network with its dense runs.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    found = answers.from_dense(answers.runs(rows), "best_top1").sort_values(
        "compression", kind="stable"
    )
    found = found.assign(at=found["compression"].map("{:,g}".format))
    beside(found, ax, x="at", by="pruner", value="difference", looks=by_pruner)
    zero_line(ax, "dense")
    ax.set_xlabel("compression")
    ax.set_ylabel("top-1 accuracy − dense (points)")
