"""What pruners keep of the weights on inputs that are always zero (question 7)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions.dead_inputs import TABLE, answer
from figures.intervals import beside, chosen
from figures.plotting import plots

view = plots(TABLE, numbers=("seed", "compression", "kept", "dead_kept", "best_top1"))


def _at(rows: pd.DataFrame, ax: Axes, quantity: str, compression: float) -> list[str]:
    """Draw a quantity by dataset; the datasets."""
    found = chosen(answer(rows), quantity=quantity, compression=compression)
    beside(found.assign(at=found["dataset"].str.replace("-", "\n")), ax, x="at", by="pruner")
    seeds = ax.get_title(loc="left").rpartition(" (")[2]
    ax.set_title(f"{rows['model'].iloc[0]}, compression {compression:,g} ({seeds}")
    return list(found["dataset"].unique())


@view
def plot(rows: pd.DataFrame, ax: Axes) -> None:
    """Share of the first layer's kept weights that are on dead inputs, at the lowest compression.

    At a higher one some pruners keep nothing of the layer.
    """
    quantity = "first-layer weights kept on dead inputs"
    datasets = _at(rows, ax, quantity, rows["compression"].min())
    dead = rows.drop_duplicates("dataset").set_index("dataset")
    shares = 100 * dead["dead_parameters"].astype(float) / dead["parameters"].astype(float)
    for place, dataset in enumerate(datasets):
        ax.plot([place - 0.4, place + 0.4], [shares[dataset]] * 2, ":", color="black")
    ax.plot([], [], ":", color="black", label="dead inputs")
    ax.set(ylim=(-3, 100), ylabel="kept on dead inputs (% of layer 1)")


@view
def accuracies(rows: pd.DataFrame, ax: Axes) -> None:
    """Top-1 accuracy at the highest compression."""
    _at(rows, ax, "top-1 accuracy", rows["compression"].max())
    ax.set_ylabel("top-1 accuracy (%)")


VIEWS = (plot, accuracies)
