"""Mean layer score against inverse layer size (figure 4)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.published import scaled
from analysis.questions import finished
from collapse.plots import layer_means, line_of_logs, score_against_inverse_size, style
from figures.plotting import PUBLISHED, plots

TABLE = "layers"
PANELS = ("pruner",)
NUMBERS = ("compression", "parameters", "score_sum", "score_abs_sum")


def message(table: pd.DataFrame) -> str:
    """The slope of each pruner's scores."""
    slopes = []
    for pruner, rows in table[finished(table)].groupby("pruner", sort=False):
        line = line_of_logs(1 / rows["parameters"].astype(float), layer_means(rows))
        slopes.append(f"{style.name(str(pruner))} {round(line.slope, 2) + 0.0:.2f}")
    return f"Slope of score on inverse layer size, 1 if conserved: {', '.join(slopes)}"


@plots(TABLE, one=("model", "pruner", "compression"), numbers=NUMBERS)
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None = None) -> None:
    """A dot a layer; conserved scores lie on a line of slope 1."""
    score_against_inverse_size(rows, ax=ax)
    name = style.name(str(rows["pruner"].iloc[0]))
    ax.set_title(name)
    if published is not None:
        theirs, factor = scaled(published["score_mean"], layer_means(rows))
        ax.plot(1 / published["elements"], theirs, label="published, times a factor", **PUBLISHED)
        ax.set_title(f"{name}\npublished × {style.number(factor)}")
