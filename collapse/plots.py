"""The few plots that a command draws: tidy table in, Axes out.

Needs matplotlib only, never pyplot's global state, so it works without a display and leaks
nothing into the user's settings.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from collapse.errors import RequestError, first_line
from collapse.storage import atomic

# Okabe & Ito's palette, which readers with colour-vision deficiencies can tell apart.
COLOURS = {
    "random": "#7f7f7f",
    "magnitude": "#d55e00",
    "snip": "#e69f00",
    "grasp": "#009e73",
    "synflow": "#0072b2",
}
_OTHER = "#cc79a7"


def critical_bars(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Critical compression of each pruner as bars, the maximum as a dashed line.

    Args:
        table: a ``critical`` table of one network. With several seeds a bar is their geometric
            mean and dots show each.
        ax: where to draw; a new figure without it.

    Raises:
        RequestError: the table is empty, or holds several networks.
    """
    if table.empty:
        raise RequestError("the critical table is empty: expected at least one row")
    if table["model"].nunique() > 1 or table["maximal_compression"].nunique() > 1:
        raise RequestError("critical bars show one network: expected one model in the table")
    if ax is None:
        ax = Figure(figsize=(6.4, 3.6), layout="constrained").subplots()
    labels = table["pruner"] + np.where(
        table["schedule"] == "certified",
        "\ncertified",
        np.where(table["iterations"] > 1, "\n" + table["iterations"].astype(str) + " it.", ""),
    )
    maximum = float(table["maximal_compression"].iloc[0])
    for place, (label, rows) in enumerate(table.groupby(labels, sort=False)):
        values = rows["critical_compression"].to_numpy(float)
        height = float(np.exp(np.log(values).mean()))
        colour = COLOURS.get(str(rows["pruner"].iloc[0]), _OTHER)
        hatch = "//" if rows["schedule"].iloc[0] == "certified" else None
        ax.bar(
            place, height, color=colour, edgecolor="white", width=0.7, hatch=hatch, label=str(label)
        )
        if len(values) > 1:
            ax.plot([place] * len(values), values, "o", color="black", markersize=3)
        ax.annotate(
            _number(height),
            (place, height),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
        )
    ax.axhline(maximum, color="black", linestyle="--", linewidth=1)
    ax.annotate(
        f"maximal compression {_number(maximum)}",
        (0, maximum),
        xytext=(2, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize=8,
    )
    ax.set_yscale("log")
    ax.set_ylim(1, maximum**1.12)
    ax.set_xticks(range(labels.nunique()), list(labels.unique()))
    ax.set_ylabel("critical compression")
    seeds = table["seed"].nunique()
    ax.set_title(
        f"{table['model'].iloc[0]}, {table['dataset'].iloc[0]}"
        + (f" ({seeds} seeds)" if seeds > 1 else ""),
        loc="left",
        fontsize=10,
    )
    ax.spines[["top", "right"]].set_visible(False)
    return ax


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
    if ax is None:
        ax = Figure(figsize=(4.4, 3.6), layout="constrained").subplots()
    pruner = str(table["pruner"].iloc[0])
    inverse = 1 / table["parameters"].to_numpy(float)
    mean = table["score_mean"].abs().to_numpy(float)
    ax.loglog(inverse, mean, "o", color=COLOURS.get(pruner, _OTHER), label=pruner)
    _slope_one(ax, inverse, mean)
    ax.set_xlabel("inverse layer size")
    ax.set_ylabel("mean layer score (absolute)")
    ax.set_title(f"{table['model'].iloc[0]}, {pruner}", loc="left", fontsize=10)
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


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
    if ax is None:
        ax = Figure(figsize=(4.8, 3.6), layout="constrained").subplots()
    first = table[table["level"] == table["level"].min()]
    epochs = sorted(first["epoch"].unique())
    shown = [epochs[i] for i in sorted({*np.linspace(0, len(epochs) - 1, 6).round().astype(int)})]
    colours = colormaps["viridis"](np.linspace(0, 0.9, len(shown)))
    for epoch, colour in zip(shown, colours, strict=True):
        rows = first[first["epoch"] == epoch].sort_values("parameters")
        r = rows["r"].iloc[0]
        label = f"epoch {epoch}" + (f", r = {r:.3f}" if pd.notna(r) else "")
        inverse, mean = 1 / rows["parameters"].to_numpy(float), rows["score_mean"].to_numpy(float)
        ax.loglog(inverse, mean, "o-", color=colour, markersize=4, linewidth=0.8, label=label)
    _slope_one(ax, inverse, mean)
    ax.set_xlabel("inverse layer size")
    ax.set_ylabel("mean squared weight")
    ax.set_title(f"{table['model'].iloc[0]}, {table['dataset'].iloc[0]}", loc="left", fontsize=10)
    ax.legend(frameon=False, fontsize=7)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _slope_one(ax: Axes, inverse: NDArray[np.float64], mean: NDArray[np.float64]) -> None:
    """A dashed line of slope 1 through the middle of the points."""
    seen = mean > 0
    if seen.any():
        middle = np.exp(np.log(mean[seen] / inverse[seen]).mean())
        ends = np.array([inverse.min(), inverse.max()])
        ax.loglog(ends, middle * ends, "--", color="black", linewidth=1, label="slope 1")


def _number(value: float) -> str:
    """Three digits, with a power of ten where counting zeros would be work."""
    if value < 1e5:
        return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"
    exponent = int(np.floor(np.log10(value)))
    return rf"${value / 10**exponent:.2f}\times10^{{{exponent}}}$"


def save(ax: Axes, path: Path) -> None:
    """Save an Axes' figure whole or not at all, in the format of the suffix.

    Raises:
        RequestError: unknown suffix, or the file cannot be written.
    """
    try:
        with atomic(path) as temporary:
            ax.figure.savefig(temporary, dpi=200, bbox_inches="tight")  # type: ignore[union-attr]  # a Figure
    except ValueError as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"plot '{path}': {first_line(error)}") from error
