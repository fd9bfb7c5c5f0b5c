"""Neuron-wise conservation: score in against score out (figure 3)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from collapse.plots import style
from figures.plotting import plots

TABLE = "neurons"
PANELS = ("quantity",)


@plots(
    TABLE,
    one=("model", "quantity"),
    numbers=("score_in", "score_out"),
    points=("quantity",),
)
def plot(rows: pd.DataFrame, ax: Axes) -> None:
    """A dot a hidden unit, from the input (dark) to the output (bright); conserved on the line.

    Signed quantities are drawn by their size, because the axes are logarithmic; units at exactly
    zero on a side are left out.
    """
    places = list(rows["place"].unique())
    shades = colormaps[style.SEQUENCE](np.linspace(0, 0.9, len(places)))
    into, out_of = rows["score_in"].abs(), rows["score_out"].abs()
    seen = (into > 0) & (out_of > 0)
    for place, shade in zip(places, shades, strict=True):
        here = seen & (rows["place"] == place)
        ax.plot(
            into[here], out_of[here], ".", color=shade, markersize=2.5, rasterized=True,
            label=place if place in (places[0], places[len(places) // 2], places[-1]) else None,
        )  # fmt: skip
    both = pd.concat([into[seen], out_of[seen]])
    if len(both):
        ax.axline((both.min(), both.min()), (both.max(), both.max()), color="black",
                  linestyle="--", linewidth=0.8, label="in = out")  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("|score into a unit|")
    ax.set_ylabel("|score out of it|")
    ax.set_title(f"{style.name(str(rows['quantity'].iloc[0]))}, {rows['model'].iloc[0]}")
