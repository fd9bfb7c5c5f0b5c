"""Effective against nominal compression, and accuracy against each (question 9)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions import effective
from analysis.questions.effective import TABLE, answer
from collapse.plots import style
from figures import intervals
from figures.intervals import INTERVALS, by_pruner, chosen, powers, title
from figures.outcomes import NUMBERS, POINTS
from figures.plotting import plots

view = plots(
    TABLE,
    one=("model", "dataset"),
    numbers=(*NUMBERS, "best_top1"),
    points=POINTS,
    shown=INTERVALS,
)


def message(table: pd.DataFrame) -> str:
    """From which compression on all that a pruner keeps is dead in some run."""
    runs = chosen(effective.curves(table), quantity="runs with nothing alive")
    dead = runs[runs["estimate"] > 0].groupby("pruner", sort=False)["compression"].min()
    words = [f"{style.name(str(n))} from {at:,g}" for n, at in dead.items()]
    alive = [style.name(n) for n in runs["pruner"].unique() if n not in dead.index]
    words += [f"{' and '.join(alive)} never"] * bool(alive)
    return f"All that is kept is dead in some run: {', '.join(words)}"


@view
def plot(rows: pd.DataFrame, ax: Axes) -> None:
    """Effective over nominal compression: 1 where nothing is dead, ▲ where everything is."""
    found = effective.curves(rows)
    shares = found[found["quantity"] == "log10 effective / nominal compression"]
    intervals.curves(powers(shares), ax)
    runs = chosen(found, quantity="runs with nothing alive")
    dead = runs[runs["estimate"] > 0]
    for _, rows_here in dead.groupby("compression"):
        # By name, above the axis: no height of it stands for "everything".
        names = "\n".join(style.name(n) for n in rows_here["pruner"])
        at = rows_here["compression"].iloc[0]
        ax.text(at, 0.98, f"all dead:\n{names}", transform=ax.get_xaxis_transform(),
                ha="right", va="top", fontsize="small")  # fmt: skip
    ax.axhline(1, color="black", linewidth=0.6)
    ax.set_xscale("log")
    if ax.get_ylim()[1] > 10:
        ax.set_yscale("log")
    ax.set(xlabel="nominal compression", ylabel="effective / nominal compression")
    if len(dead):  # room for the names
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.45 * (high - low))
    title(runs, ax, "dead weights")


@view
def accuracies(rows: pd.DataFrame, ax: Axes) -> None:
    """Mean top-1 accuracy against effective compression; hollow: against nominal compression."""
    found = chosen(answer(rows), quantity="top-1 accuracy").sort_values("compression")
    curves = effective.curves(rows)
    alive = powers(curves[curves["quantity"] == "log10 effective compression"])
    alive = alive.assign(effective=alive["estimate"])[["pruner", "compression", "effective"]]
    for pruner, part in found.merge(alive, how="left").groupby("pruner", sort=False):
        look = by_pruner(str(pruner))
        hollow = {**look, "linestyle": ":", "markerfacecolor": "none", "label": None}
        ax.plot(part["compression"], part["estimate"], **hollow)
        ax.plot(part["effective"], part["estimate"], **look)
        known = part.dropna(subset=["effective", "low", "high"])
        ax.vlines(known["effective"], known["low"], known["high"], color=look["color"])
    ax.plot([], [], ":", color="black", marker="o", markerfacecolor="none", label="nominal")
    ax.set_xscale("log")
    ax.set(xlabel="effective (hollow: nominal) compression", ylabel="top-1 accuracy (%)")
    title(found, ax, "accuracy")


VIEWS = (plot, accuracies)
