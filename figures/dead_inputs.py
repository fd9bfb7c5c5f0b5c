"""What pruners keep of the weights on inputs that are always zero (question 7)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from figures.estimates import beside, by_pruner
from figures.plotting import plots

TABLE = "dead_inputs"
PANELS: tuple[str, ...] = ()


def _highest(rows: pd.DataFrame) -> pd.DataFrame:
    found: pd.DataFrame = rows[rows["compression"] == rows["compression"].max()]
    return found


@plots(TABLE)
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Share of the first layer's kept weights that are on dead inputs, at the lowest compression.

    At a higher one some pruners keep nothing of the layer.

    Args:
        rows: a ``dead_inputs`` table of one network.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    part = rows[(rows["kept"] > 0) & (rows["compression"] == rows["compression"].min())]
    part = part.assign(share=100 * part["dead_kept"].astype(float) / part["kept"].astype(float))
    part = part.assign(at=part["dataset"].str.replace("-", "\n"))
    beside(part, ax, x="at", by="pruner", value="share", looks=by_pruner)
    dead = rows.drop_duplicates("dataset").set_index("dataset")
    for place, dataset in enumerate(part["dataset"].unique()):
        one = dead.loc[dataset]
        level = 100 * float(one["dead_parameters"]) / float(one["parameters"])
        ax.plot([place - 0.4, place + 0.4], [level, level], ":", color="black")
    ax.plot([], [], ":", color="black", label="dead inputs")
    ax.set_ylim(-3, 100)
    ax.set_ylabel("kept on dead inputs (% of layer 1)")
    _short_title(part, ax)


@plots(TABLE)
def accuracies(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Top-1 accuracy at the highest compression.

    Args:
        rows: a ``dead_inputs`` table of one network.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    part = _highest(rows)
    part = part.assign(at=part["dataset"].str.replace("-", "\n"))
    beside(part, ax, x="at", by="pruner", value="best_top1", looks=by_pruner)
    ax.set_ylabel("top-1 accuracy (%)")
    _short_title(part, ax)


def _short_title(part: pd.DataFrame, ax: Axes) -> None:
    seeds = ax.get_title(loc="left").rpartition(" (")[2]
    ax.set_title(f"{part['model'].iloc[0]}, compression {part['compression'].iloc[0]:,g} ({seeds}")


VIEWS = (plot, accuracies)
