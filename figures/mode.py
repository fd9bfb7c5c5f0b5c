"""SNIP and GraSP scored in train mode, in eval mode and in it after a warm-up (question 2)."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.questions import mode
from analysis.questions.mode import MODES, TABLE, answer
from collapse.plots import style
from figures.intervals import (
    INTERVALS,
    beside,
    by_pruner,
    chosen,
    in_turn,
    powers,
    title,
    zero_line,
)
from figures.outcomes import NUMBERS, POINTS, pruned_to
from figures.plotting import plots

view = plots(TABLE, one=(), numbers=NUMBERS, points=POINTS, shown=INTERVALS, known={"mode": MODES})


_LINES = {"train": "-", "eval": ":", "warm": "--"}


def message(table: pd.DataFrame) -> str:
    """Critical compression of each pruner in each mode."""
    found = powers(chosen(answer(table), quantity="log10 critical compression"))
    words = []
    for (model, pruner), rows in found.groupby(["model", "pruner"], sort=False):
        each = [
            f"{style.number(e)} ({m})" for m, e in zip(rows["mode"], rows["estimate"], strict=True)
        ]
        words.append(f"{style.name(str(pruner))} on {model} {', '.join(each)}")
    return f"Critical compression by mode: {'; '.join(words)}"


@view
def plot(rows: pd.DataFrame, ax: Axes) -> None:
    """Critical compression of each pruner on each network, by mode (geometric means)."""
    found = powers(chosen(answer(rows), quantity="log10 critical compression"))
    found = found.assign(at=found["pruner"].map(style.name) + "\n" + found["model"])
    beside(found, ax, x="at", by="mode", looks=in_turn(MODES))
    ax.set(ylabel="critical compression", yscale="log")
    ax.tick_params(axis="x", labelsize="x-small")  # two words below four groups
    title(found, ax, "critical")


@view
def accuracies(rows: pd.DataFrame, ax: Axes) -> None:
    """Top-1 accuracy minus that in eval mode, by compression, of what was trained."""
    found = chosen(answer(rows), quantity="difference in top-1 accuracy", against="eval")
    beside(pruned_to(found), ax, x="at", by="mode", looks=in_turn(MODES))
    zero_line(ax)
    title(found, ax, "accuracy")
    ax.set_ylabel("top-1 − eval mode (points)")


@view
def densities(rows: pd.DataFrame, ax: Axes) -> None:
    """Mean density of each layer at the highest compression, of the network with most layers."""
    deep = rows[rows["layer_index"] == rows["layer_index"].max()]["model"].iloc[0]
    part = rows[rows["model"] == deep]
    part = part[part["compression"] == part["compression"].max()]
    found = mode.densities(part)
    seen = found[found["estimate"] > 0]  # a logarithm has no zero
    for (pruner, scored), group in seen.groupby(["pruner", "mode"], sort=False):
        look: dict[str, Any] = by_pruner(str(pruner))
        look["label"] += f", {scored}"
        look |= {"linestyle": _LINES[str(scored)]}
        if scored != MODES[0]:
            look["markerfacecolor"] = "none"
        ax.plot(group["layer_index"], group["estimate"], **look)
    ax.set(xlabel="layer", ylabel="density of a layer", yscale="log")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    title(found, ax, f"{deep}, ×{part['compression'].iloc[0]:,g}")


VIEWS = (plot, accuracies, densities)
