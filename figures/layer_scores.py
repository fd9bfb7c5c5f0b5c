"""Mean layer score against inverse layer size (figure 4)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from collapse.plots import layer_means, score_against_inverse_size
from figures.plotting import PUBLISHED, plots

TABLE = "layers"
PANELS: tuple[str, ...] = ("pruner",)


@plots(TABLE, one=("model", "pruner", "compression"), numbers=("score_sum", "score_abs_sum"))
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """A dot a layer; conserved scores lie on a line of slope 1.

    Args:
        rows: a ``layers`` table of one network and pruner.
        ax: where to draw; a new figure without it.
        published: the paper's numbers, brought to our scale by one factor (scores are only ranked).
    """
    score_against_inverse_size(rows, ax=ax)
    if published is not None:
        means = published["score_mean"].abs()
        ours = layer_means(rows)
        factor = np.exp(np.log(ours[ours > 0]).mean() - np.log(means).mean())
        ax.plot(1 / published["elements"], means * factor, label="published", **PUBLISHED)
