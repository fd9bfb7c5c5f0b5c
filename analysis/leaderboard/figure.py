"""The leaderboard as a figure: how far each pruner gets on each network."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from collapse.errors import RequestError
from collapse.plots import style


@style.on_own_figure("page")
def shares(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Critical compression by pruner and network; colour: its logarithm over the maximum's.

    Args:
        table: a ``leaderboard`` table.

    Raises:
        RequestError: there is no number in it.
    """
    assert ax is not None
    known = table.dropna(subset=["critical_compression"])
    if known.empty:
        raise RequestError("the leaderboard has no numbers to draw: expected one row at least")
    columns = [
        f"{network} trained" if weights == "trained" else str(network)
        for network, weights in zip(table["network"], table["weights"], strict=True)
    ]
    pruners, networks = list(dict.fromkeys(table["pruner"])), list(dict.fromkeys(columns))
    critical = table["critical_compression"].astype(float)
    share = np.log(critical) / np.log(table["maximal_compression"].astype(float))
    grid = np.full((len(pruners), len(networks)), np.nan)
    for pruner, network, value, number in zip(
        table["pruner"], columns, share, critical, strict=True
    ):
        row, column = pruners.index(pruner), networks.index(network)
        grid[row, column] = value
        words = style.number(number) if np.isfinite(number) else "failed"
        dark = not value > 0.6  # the text has to stand out
        ax.text(column, row, words, ha="center", va="center", color="white" if dark else "black")
    colours = colormaps["cividis"].with_extremes(bad="firebrick")
    ax.imshow(grid, cmap=colours, vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(networks)), networks, rotation=20, ha="right")
    ax.set_yticks(range(len(pruners)), [style.name(pruner) for pruner in pruners])
    ax.grid(visible=False)
    among = grid[:, ~np.isnan(grid).all(axis=0)]
    furthest = (among >= np.nanmax(among, axis=0) - 1e-9).sum(axis=1)  # with those that tie
    pairs = zip(pruners, furthest, strict=True)
    wins = [f"{style.name(pruner)} {count}" for pruner, count in pairs if count]
    ax.set_title(
        f"Goes furthest on so many of {len(networks)} networks: {', '.join(wins)}\n"
        "Critical compression; yellow: the maximum, one parameter a layer"
    )
    return ax


@style.on_own_figure("column")
def dead(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """The mean share of dead weights against how many are kept, a line a pruner.

    Args:
        table: a ``cubist`` table.

    Raises:
        RequestError: there is no number in it.
    """
    assert ax is not None
    known = table.dropna(subset=["dead_share"])
    if known.empty:
        raise RequestError("the cubist table has no numbers to draw: expected one row at least")
    for pruner, rows in known.groupby("pruner", sort=False):
        means = rows.groupby("kept")["dead_share"].mean() * 100
        name = str(pruner)
        ax.plot(
            *(means.index, means),
            color=style.colour(name),
            marker=style.marker(name),
            label=style.name(name),
        )
    ax.set(xlabel="weights kept", ylabel="dead weights (%)", ylim=(-3, 103))
    low, high = ax.get_xlim()
    ax.set_xlim(low, high + 0.4 * (high - low))  # room for the legend
    return ax
