"""What each pruner costs, beside one epoch of training (question 3)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions.cost import TABLE, answer
from collapse.plots import style
from figures.intervals import beside, chosen
from figures.plotting import plots

view = plots(
    TABLE,
    one=("dataset",),
    numbers=("compression", "seconds", "flops", "epoch_seconds", "epoch_flops"),
    shown="Measured once; random and magnitude need no operations and are not drawn there",
)


def message(table: pd.DataFrame) -> str:
    """The dearest pruner of each network, in epochs of training."""
    found = chosen(answer(table), quantity="time, share of an epoch")
    words = []
    for model, rows in found.groupby("model", sort=False):
        top = rows.sort_values("estimate").iloc[-1]
        words.append(f"{model} {style.number(top['estimate'])} ({style.name(top['pruner'])})")
    return f"Time of the dearest pruner, in epochs of training: {', '.join(words)}"


def _draw(rows: pd.DataFrame, ax: Axes, quantity: str, label: str, unit: float = 1.0) -> None:
    found = chosen(answer(rows), quantity=quantity)
    found = found[found["estimate"] > 0]  # what needs none is not drawn
    beside(found.assign(estimate=found["estimate"] / unit), ax, x="model", by="pruner")
    ax.set(ylabel=label, yscale="log")
    ax.set_title(quantity.partition(",")[0])


@view
def plot(rows: pd.DataFrame, ax: Axes) -> None:
    """Time of pruning in epochs of training, by network."""
    _draw(rows, ax, "time, share of an epoch", "time (epochs)")
    _epoch(ax)


def _epoch(ax: Axes) -> None:
    """A line at one epoch, where the axis comes near it."""
    if ax.get_ylim()[1] > 0.3:
        ax.axhline(1, color="black", linewidth=0.6, label="one epoch")


@view
def operations(rows: pd.DataFrame, ax: Axes) -> None:
    """Operations of pruning in epochs of training; what needs none is not drawn."""
    _draw(rows, ax, "operations, share of an epoch", "operations (epochs)")
    _epoch(ax)


@view
def memory(rows: pd.DataFrame, ax: Axes) -> None:
    """Peak memory above that of the network and its data."""
    _draw(rows, ax, "peak memory", "peak memory (MiB)", 2**20)


VIEWS = (plot, operations, memory)
