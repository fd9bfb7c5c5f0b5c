"""How unevenly masks lie over units as a network grows. (experiment 2)"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions.features import TABLE, answer
from collapse.plots import style
from figures.intervals import INTERVALS, chosen, curves, zero_line
from figures.plotting import plots

PANELS = ("layer_index", "side")
_UNITS = {"in": "inputs", "out": "outputs"}


def message(table: pd.DataFrame) -> str:
    """The excess of each pruner in the widest network, and in the narrowest."""
    found = chosen(answer(table), layer_index=table["layer_index"].max(), side="out")
    found = found[found["compression"] == found["compression"].min()].sort_values("width")
    widths = found["width"].iloc[[0, -1]]
    words = []
    for pruner, rows in found.groupby("pruner", sort=False):
        start, end = (f"{abs(round(x, 2)):.2f}" for x in rows["estimate"].iloc[[0, -1]])
        words.append(f"{style.name(str(pruner))} {start} → {end}")
    return (
        f"How unevenly layer {found['layer_index'].iloc[0]} keeps weights over its outputs, beyond "
        f"chance, from width {widths.iloc[0]:,} to {widths.iloc[-1]:,}: {', '.join(words)}"
    )


@plots(
    TABLE,
    one=("dataset", "layer_index", "side"),
    numbers=("seed", "compression", "width"),
    points=("width", "layer_index", "side"),
    shown=f"{INTERVALS}; unevenness over units, 0 if each weight is kept by the same chance",
)
def plot(rows: pd.DataFrame, ax: Axes) -> None:
    """Squared coefficient of variation of the weights that units keep, less that of chance.

    At the lowest compression.
    """
    found = answer(rows[rows["compression"] == rows["compression"].min()])
    curves(found, ax, x="width")
    zero_line(ax)
    ax.set_xscale("log")
    ax.set(xlabel="width", ylabel="unevenness")
    layer, side = rows["layer_index"].iloc[0], rows["side"].iloc[0]
    ax.set_title(f"layer {layer}, {_UNITS.get(side, side)}")  # seeds are below
