"""The plots that a command draws: tidy table in, Axes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from numpy.typing import NDArray

from collapse.errors import RequestError
from collapse.plots import style
from collapse.plots.fits import line_of_logs

_DIAMOND: dict[str, Any] = {
    "linestyle": "none",
    "marker": "D",
    "markersize": 5,
    "zorder": 4,
    "color": "black",
    "markerfacecolor": "white",
}


@style.on_own_figure("page")
def critical_bars(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Critical compression of each pruner as bars, connected until as diamonds.

    The maximum is a dashed line.

    Args:
        table: a ``critical`` table of one network. With several seeds a bar and a diamond are
            their geometric means, and dots show each critical compression.
        ax: where to draw; a new figure without it.

    Raises:
        RequestError: the table is empty, or holds several networks.
    """
    if table.empty:
        raise RequestError("the critical table is empty: expected at least one row")
    if table["model"].nunique() > 1 or table["maximal_compression"].nunique() > 1:
        raise RequestError("critical bars show one network: expected one model in the table")
    assert ax is not None
    names = table["pruner"].map(style.name)
    # Of your own pruners in two files the functions may have one name.
    clash = table.groupby(names)["pruner"].transform("nunique") > 1
    labels = names.where(~clash, table["pruner"]) + np.where(
        table["schedule"] == "certified",
        "\ncertified",
        np.where(table["iterations"] > 1, "\n" + table["iterations"].astype(str) + " it.", ""),
    )
    maximum = float(table["maximal_compression"].iloc[0])
    for place, (_, rows) in enumerate(table.groupby(labels, sort=False)):
        values = rows["critical_compression"].to_numpy(float)
        height = _geometric_mean(values)
        colour = style.colour(str(rows["pruner"].iloc[0]))
        hatch = "//" if rows["schedule"].iloc[0] == "certified" else None
        ax.bar(place, height, color=colour, edgecolor="white", width=0.7, hatch=hatch)
        if len(values) > 1:
            ax.plot([place] * len(values), values, "o", color="black", markersize=3)
        until = _geometric_mean(rows["connected_until"].dropna().to_numpy(float))
        ax.annotate(
            style.number(height),
            (place, height),
            xytext=(0, 8 if height <= until < 1.2 * height else 2),  # above the diamond
            textcoords="offset points",
            ha="center",
            va="bottom",
        )
        label = None if ax.get_legend_handles_labels()[0] else "connected until"
        if not np.isnan(until):
            ax.plot(place, until, label=label, **_DIAMOND)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper right")
    ax.axhline(maximum, color="black", linestyle="--", linewidth=1)
    ax.annotate(
        f"maximal compression {style.number(maximum)}",
        (0, maximum),
        xytext=(2, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
    )
    ax.set_yscale("log")
    ax.set_ylim(1, maximum**1.12)
    ax.set_xticks(range(labels.nunique()), list(labels.unique()))
    ax.set_ylabel("critical compression")
    seeds = table["seed"].nunique()
    ax.set_title(_network(table) + (f" ({seeds} seeds)" if seeds > 1 else ""), loc="left")
    return ax


def _geometric_mean(values: NDArray[np.float64]) -> float:
    return float(np.exp(np.log(values).mean())) if len(values) else float("nan")


@style.on_own_figure()
def score_against_inverse_size(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Mean layer score against inverse layer size, on logarithmic axes (figure 4).

    Conserved scores lie on a line of slope 1, drawn dashed through the middle of the points.

    Args:
        table: a ``layers`` table of one network, pruner and compression.
        ax: where to draw; a new figure without it.

    Raises:
        RequestError: the table is empty.
    """
    if table.empty:
        raise RequestError("the layers table is empty: expected at least one row")
    assert ax is not None
    pruner = str(table["pruner"].iloc[0])
    inverse, mean = 1 / table["parameters"].to_numpy(float), layer_means(table)
    seen = mean > 0  # a logarithm has no zero
    ax.loglog(inverse[seen], mean[seen], style.marker(pruner), color=style.colour(pruner))
    _against_inverse_size(ax, inverse, mean)
    line = line_of_logs(inverse, mean)
    if not np.isnan(line.r):
        _corner(ax, str(line))
    ax.set_ylabel("|mean layer score|")
    ax.set_title(f"{style.name(pruner)}, {table['model'].iloc[0]}", loc="left")
    return ax


def layer_means(table: pd.DataFrame) -> NDArray[np.float64]:
    """Mean score of each row's layer, without its sign.

    Random scores have no sign to speak of (their mean is zero but for chance): those are averaged
    by size; signed saliencies (GraSP's) are summed first, because the sum is what is conserved.
    """
    by_size = table["pruner"] == "random"
    sums = table["score_abs_sum"].where(by_size, table["score_sum"].abs())
    means: NDArray[np.float64] = (sums / table["parameters"]).to_numpy(float)
    return means


@style.on_own_figure()
def score_dynamics(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Mean squared weight of each layer against inverse layer size, by epoch (figure 5b).

    Epochs of the first level run from dark to bright; magnitude is conserved as far as its layers
    lie on a line of slope 1, drawn dashed through the last epoch's points.

    Args:
        table: a ``score_dynamics`` table of one run.
        ax: where to draw; a new figure without it.

    Raises:
        RequestError: the table is empty.
    """
    if table.empty:
        raise RequestError("the score dynamics are empty: expected at least one epoch")
    assert ax is not None
    first = table[table["level"] == table["level"].min()]
    epochs = sorted(first["epoch"].unique())
    for epoch, colour in shades(epochs):
        rows = first[first["epoch"] == epoch].sort_values("parameters")
        label = f"epoch {epoch}"
        inverse, mean = 1 / rows["parameters"].to_numpy(float), rows["score_mean"].to_numpy(float)
        seen = mean > 0
        ax.loglog(inverse[seen], mean[seen], "o-", color=colour, linewidth=0.8, label=label)
    _against_inverse_size(ax, inverse, mean)
    ax.set_ylabel("mean squared weight")
    ax.set_title(_network(table), loc="left")
    start, end = (first[first["epoch"] == at].iloc[0] for at in (epochs[0], epochs[-1]))
    if all(pd.notna(each[name]) for each in (start, end) for name in ("slope", "r")):
        words = [
            f"{name} {start[name]:.{digits}f} → {end[name]:.{digits}f}"
            for name, digits in (("slope", 2), ("r", 4))
        ]
        _corner(ax, "\n".join(words))
    return ax


def _corner(ax: Axes, text: str) -> None:
    """A few words at the lower right, where a line of slope 1 never is."""
    ax.text(0.98, 0.03, text, fontsize="small", transform=ax.transAxes, ha="right", va="bottom")


def shades(values: Sequence[Any], most: int = 5) -> list[tuple[Any, Any]]:
    """At most so many of the values, evenly spread, each with its colour from dark to bright."""
    index = sorted({*np.linspace(0, len(values) - 1, min(most, len(values))).round().astype(int)})
    colours = colormaps[style.SEQUENCE](np.linspace(0, 0.9, len(index)))
    return [(values[i], colour) for i, colour in zip(index, colours, strict=True)]


def _against_inverse_size(
    ax: Axes, inverse: NDArray[np.float64], mean: NDArray[np.float64]
) -> None:
    """What both plots against inverse layer size share: the axis, and a line of slope 1."""
    seen = mean > 0
    if seen.any():
        middle = np.exp(np.log(mean[seen] / inverse[seen]).mean())
        ends = np.array([inverse.min(), inverse.max()])
        ax.loglog(ends, middle * ends, "--", color="black", linewidth=1, label="slope 1")
    ax.set_xlabel("inverse layer size")


def _network(table: pd.DataFrame) -> str:
    return f"{table['model'].iloc[0]}, {table['dataset'].iloc[0]}"
