"""Mean layer score against inverse layer size while training (figure 5b)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from collapse.plots import score_dynamics
from figures.plotting import PUBLISHED, plots

TABLE = "score_dynamics"
PANELS: tuple[str, ...] = ("seed",)


@plots(TABLE, one=("model", "dataset", "seed"))
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Mean squared weight of each layer, from the first epoch (dark) to the last (bright).

    Args:
        rows: a ``score_dynamics`` table of one run.
        ax: where to draw; a new figure without it.
        published: the paper's numbers at its first and last epoch, as crosses.
    """
    score_dynamics(rows, ax=ax)
    if published is not None:
        shown = published[published["epoch"].isin([0, published["epoch"].max()])]
        ax.plot(1 / shown["elements"], shown["score_mean"], label="published", **PUBLISHED)
    runs = rows["seed"].unique()
    ax.set_title(f"{rows['model'].iloc[0]}, {rows['dataset'].iloc[0]}, seed {int(np.max(runs))}")
