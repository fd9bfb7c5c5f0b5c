"""Effective against nominal compression, and accuracy against each (question 9)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions import effective
from analysis.questions.effective import TABLE, answer
from collapse.plots import style
from figures import intervals
from figures.intervals import by_pruner, chosen, powers, title
from figures.outcomes import NUMBERS, POINTS
from figures.plotting import plots

view = plots(TABLE, one=("model", "dataset"), numbers=(*NUMBERS, "best_top1"), points=POINTS)


@view
def plot(rows: pd.DataFrame, ax: Axes) -> None:
    """Effective over nominal compression: 1 where nothing is dead, ▲ where everything is."""
    found = effective.curves(rows)
    shares = found[found["quantity"] == "log10 effective / nominal compression"]
    intervals.curves(powers(shares), ax)
    runs = chosen(found, quantity="runs with nothing alive")
    dead = runs[runs["estimate"] > 0]
    for number, pruner in enumerate(runs["pruner"].unique()):
        top, height = ax.get_xaxis_transform(), 0.97 - 0.06 * number  # below one another
        for place in dead.loc[dead["pruner"] == pruner, "compression"]:
            (mark,) = ax.plot([place], [height], "^", color=style.colour(pruner), transform=top)
            mark.set_in_layout(False)
    if len(dead):
        ax.plot([], [], "^", color="black", label="all dead in some run")
    ax.axhline(1, color="black", linewidth=0.6)
    ax.set_xscale("log")
    if ax.get_ylim()[1] > 10:
        ax.set_yscale("log")
    ax.set(xlabel="nominal compression", ylabel="effective / nominal compression")
    title(runs, ax)


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
    ax.plot([], [], ":", color="black", marker="o", markerfacecolor="none", label="nominal")
    ax.set_xscale("log")
    ax.set(xlabel="effective (hollow: nominal) compression", ylabel="top-1 accuracy (%)")
    title(found, ax)


VIEWS = (plot, accuracies)
