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
    """Where the slope begins and where it ends; each seed's stands in its panel."""
    done = table[finished(table)].dropna(subset=["slope"]).sort_values("epoch")
    by_seed = done[done["level"] == done["level"].min()].groupby("seed")["slope"]
    start, end = by_seed.first(), by_seed.last()
    return (
        f"Slope of mean squared weight on inverse layer size: {_range(start)} → {_range(end)} "
        "by training (1: in proportion)"
    )


def _range(slopes: pd.Series) -> str:
    low, high = f"{slopes.min():.2f}", f"{slopes.max():.2f}"
    return low if low == high else f"{low}–{high}"


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
