"""What each pruner costs, beside one epoch of training (question 3)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from figures.estimates import beside, by_pruner
from figures.plotting import plots

TABLE = "costs"
PANELS: tuple[str, ...] = ()


def _draw(rows: pd.DataFrame, ax: Axes, value: pd.Series[float], label: str) -> None:
    shown = rows.assign(value=value.astype(float))
    beside(shown, ax, x="model", by="pruner", value="value", looks=by_pruner, geometric=True)
    ax.set_ylabel(label)
    ax.set_title(f"{rows['dataset'].iloc[0]}, measured once")


@plots(TABLE, one=("dataset",))
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Time of pruning in epochs of training, by network.

    Args:
        rows: a ``costs`` table.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    _draw(rows, ax, rows["seconds"] / rows["epoch_seconds"], "time (epochs)")
    ax.axhline(1, color="black", linewidth=0.6)


@plots(TABLE, one=("dataset",))
def operations(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Operations of pruning in epochs of training; what needs none is not drawn.

    Args:
        rows: a ``costs`` table.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    _draw(rows, ax, rows["flops"] / rows["epoch_flops"], "operations (epochs)")
    ax.axhline(1, color="black", linewidth=0.6)


@plots(TABLE, one=("dataset",))
def memory(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Peak memory above that of the network and its data.

    Args:
        rows: a ``costs`` table.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    _draw(rows, ax, rows["peak_bytes"] / 2**20, "peak memory (MiB)")


VIEWS = (plot, operations, memory)
