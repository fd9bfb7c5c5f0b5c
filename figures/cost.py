"""What each pruner costs, beside one epoch of training (question 3)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions.cost import TABLE, answer
from figures.intervals import beside, chosen
from figures.plotting import plots

view = plots(
    TABLE,
    one=("dataset",),
    numbers=("compression", "seconds", "flops", "epoch_seconds", "epoch_flops"),
)


def _draw(rows: pd.DataFrame, ax: Axes, quantity: str, label: str, unit: float = 1.0) -> None:
    found = chosen(answer(rows), quantity=quantity)
    found = found[found["estimate"] > 0]  # what needs none is not drawn
    beside(found.assign(estimate=found["estimate"] / unit), ax, x="model", by="pruner")
    ax.set(ylabel=label, yscale="log")
    ax.set_title(f"{rows['dataset'].iloc[0]}, measured once")


@view
def plot(rows: pd.DataFrame, ax: Axes) -> None:
    """Time of pruning in epochs of training, by network."""
    _draw(rows, ax, "time, share of an epoch", "time (epochs)")
    ax.axhline(1, color="black", linewidth=0.6)


@view
def operations(rows: pd.DataFrame, ax: Axes) -> None:
    """Operations of pruning in epochs of training; what needs none is not drawn."""
    _draw(rows, ax, "operations, share of an epoch", "operations (epochs)")
    ax.axhline(1, color="black", linewidth=0.6)


@view
def memory(rows: pd.DataFrame, ax: Axes) -> None:
    """Peak memory above that of the network and its data."""
    _draw(rows, ax, "peak memory", "peak memory (MiB)", 2**20)


VIEWS = (plot, operations, memory)
