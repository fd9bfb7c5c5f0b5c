"""IMP in several levels: accuracy against compression (figure 5a)."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions.accuracy import TABLE, answer
from collapse.plots import style
from figures.accuracy import NUMBERS, PANELS
from figures.intervals import RANGE, curves, shades
from figures.plotting import PUBLISHED, plots

__all__ = ["PANELS", "TABLE", "message", "plot"]


def message(table: pd.DataFrame) -> str:
    """Accuracies at the highest compression at which one is more than half of the highest."""
    found = answer(table)
    good = found[found["estimate"] > found["estimate"].max() / 2]
    at = float(good["compression"].max())
    here = found[found["compression"] == at].sort_values("levels")
    words = [
        f"{n:g} level{'s' * (n != 1)} {e:.0f} %"
        for n, e in zip(here["levels"], here["estimate"], strict=True)
    ]
    return f"At compression {style.number(at)}: {', '.join(words)}"


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
