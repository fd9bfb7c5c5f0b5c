"""IMP in several levels: accuracy against compression (figure 5a)."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions.accuracy import TABLE, answer
from figures.accuracy import NUMBERS, PANELS
from figures.intervals import RANGE, curves, shades
from figures.plotting import PUBLISHED, plots

__all__ = ["PANELS", "TABLE", "message", "plot"]


def message(table: pd.DataFrame) -> str:
    """The number of levels that is best at each compression, where the best is not chance's."""
    found = answer(table)
    words = []
    for compression, rows in found[found["compression"] > 1].groupby("compression"):
        best = rows.sort_values("estimate").iloc[-1]
        words.append(f"{best['levels']:g} at {compression:,.3g}")
    return f"Levels with the highest accuracy, by compression: {', '.join(words)}"


@plots(TABLE, one=("model", "dataset", "pruner"), numbers=NUMBERS, shown=RANGE)
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None = None) -> None:
    """Best top-1 accuracy of IMP's ticket against compression, a curve a number of levels."""
    colours = shades(rows["levels"].unique())

    def look(levels: int) -> dict[str, Any]:
        word = "level" if levels == 1 else "levels"
        return {"color": colours[levels], "marker": "o", "label": f"{levels} {word}"}

    curves(answer(rows), ax, by="levels", looks=look, band=True)
    if published is not None:
        for levels, shade in colours.items():
            theirs = published[published["levels"] == levels]
            ax.plot(theirs["compression"], theirs["best_top1"], **{**PUBLISHED, "color": shade})
        ax.plot([], [], label="published", **PUBLISHED)
    ax.set_xscale("log")
    ax.set_ylim(bottom=0)
    ax.set(xlabel="compression", ylabel="top-1 accuracy (%)")
    ax.set_title(f"{rows['model'].iloc[0]}, {rows['dataset'].iloc[0]}")
