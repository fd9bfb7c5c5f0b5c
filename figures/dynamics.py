"""Mean layer score against inverse layer size while training (figure 5b)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions import finished
from collapse.plots import score_dynamics
from figures.plotting import PUBLISHED, plots

TABLE = "score_dynamics"
PANELS = ("seed",)
SAME_Y = True
NUMBERS = ("level", "epoch", "parameters", "score_mean")


def message(table: pd.DataFrame) -> str:
    """How slope and correlation go from the first epoch to the last, by seed."""
    words = []
    done = table[finished(table)].dropna(subset=["slope", "r"])
    for seed, rows in done[done["level"] == done["level"].min()].groupby("seed"):
        ordered = rows.sort_values("epoch")
        start, end = ordered.iloc[0], ordered.iloc[-1]
        words.append(
            f"seed {seed}: slope {start['slope']:.2f} → {end['slope']:.2f}, "
            f"r {start['r']:.3f} → {end['r']:.3f}"
        )
    return "Mean squared weight on inverse layer size, first epoch → last: " + "; ".join(words)


@plots(TABLE, one=("model", "dataset", "seed"), numbers=NUMBERS)
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None = None) -> None:
    """Mean squared weight of each layer, from the first epoch (dark) to the last (bright).

    Published are the first and the last epoch.
    """
    score_dynamics(rows, ax=ax)
    if published is not None:
        shown = published[published["epoch"].isin([0, published["epoch"].max()])]
        ax.plot(1 / shown["elements"], shown["score_mean"], label="published", **PUBLISHED)
    first = rows.iloc[0]
    ax.set_title(f"{first['model']}, {first['dataset']}, seed {first['seed']:.0f}")
