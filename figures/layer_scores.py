"""Mean layer score against inverse layer size (figure 4)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.published import scaled
from collapse.plots import layer_means, score_against_inverse_size
from figures.plotting import PUBLISHED, plots

TABLE = "layers"
PANELS = ("pruner",)
NUMBERS = ("compression", "parameters", "score_sum", "score_abs_sum")


@plots(TABLE, one=("model", "pruner", "compression"), numbers=NUMBERS)
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None = None) -> None:
    """A dot a layer; conserved scores lie on a line of slope 1."""
    score_against_inverse_size(rows, ax=ax)
    if published is not None:
        theirs = scaled(published["score_mean"], layer_means(rows))
        ax.plot(1 / published["elements"], theirs, label="published", **PUBLISHED)
