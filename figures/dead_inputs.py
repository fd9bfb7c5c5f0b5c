"""What pruners keep of the weights on inputs that are always zero (question 7)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions.dead_inputs import TABLE, answer
from collapse.plots import style
from figures.intervals import INTERVALS, beside, chosen, title
from figures.plotting import plots

view = plots(
    TABLE, numbers=("seed", "compression", "kept", "dead_kept", "best_top1"), shown=INTERVALS
)
_KEPT = "first-layer weights kept on dead inputs"


def message(table: pd.DataFrame) -> str:
    """How much of the first layer each pruner keeps on dead inputs."""
    found = chosen(answer(table), quantity=_KEPT)
    found = found[found["compression"] == found["compression"].min()]
    words = []
    for pruner, rows in found.groupby("pruner", sort=False):
        shares = rows["estimate"]
        ends = dict.fromkeys(f"{end:.0f}" for end in (shares.min(), shares.max()))
        words.append(f"{style.name(str(pruner))} {' to '.join(ends)} %")
    return f"Kept on inputs that are always zero, over the datasets: {', '.join(words)}"


def _at(rows: pd.DataFrame, ax: Axes, quantity: str, compression: float, what: str) -> list[str]:
    """Draw a quantity by dataset; the datasets."""
    found = chosen(answer(rows), quantity=quantity, compression=compression)
    beside(found.assign(at=found["dataset"].str.replace("-", "\n")), ax, x="at", by="pruner")
    title(found, ax, f"{what}, compression {compression:,g}")
    return list(found["dataset"].unique())


@view
def plot(rows: pd.DataFrame, ax: Axes) -> None:
    """Share of the first layer's kept weights that are on dead inputs, at the lowest compression.

    At a higher one some pruners keep nothing of the layer.
    """
    datasets = _at(rows, ax, _KEPT, rows["compression"].min(), "layer 1")
    dead = rows.drop_duplicates("dataset").set_index("dataset")
    shares = 100 * dead["dead_parameters"].astype(float) / dead["parameters"].astype(float)
    for place, dataset in enumerate(datasets):
        ax.plot([place - 0.4, place + 0.4], [shares[dataset]] * 2, ":", color="black")
    ax.plot([], [], ":", color="black", label="dead inputs")
    ax.set(ylim=(-3, 100), ylabel="kept on dead inputs (% of layer 1)")


@view
def accuracies(rows: pd.DataFrame, ax: Axes) -> None:
    """Top-1 accuracy at the highest compression."""
    _at(rows, ax, "top-1 accuracy", rows["compression"].max(), "accuracy")
    ax.set_ylabel("top-1 accuracy (%)")


VIEWS = (plot, accuracies)
