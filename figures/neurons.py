"""Neuron-wise conservation: score in against score out (figure 3)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from analysis.questions import finished
from collapse.plots import style
from figures.plotting import plots

TABLE = "neurons"
PANELS = ("quantity",)
CONSERVED = 0.01


def message(table: pd.DataFrame) -> str:
    """Which quantities flow through the units unchanged."""
    found = {
        style.name(str(quantity)): _defect(rows)
        for quantity, rows in table[finished(table)].groupby("quantity", sort=False)
    }
    kept = [name for name, defect in found.items() if defect < CONSERVED]
    lost = [name for name, defect in found.items() if not defect < CONSERVED]
    words = [f"score in equals score out for {' and '.join(kept)}"] * bool(kept)
    words += [f"not for {', '.join(lost)}"] * bool(lost)
    return "Unit by unit, " + "; ".join(words)


def _defect(rows: pd.DataFrame) -> float:
    """What is lost or made in the units, as a share of all that flows through them."""
    into, out_of = (rows[column].astype(float) for column in ("score_in", "score_out"))
    return float((into - out_of).abs().sum() / (into.abs() + out_of.abs()).sum())


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
    # In an order drawn by lot, so that no layer is painted over by the next.
    order = np.random.default_rng(0).permutation(np.flatnonzero(seen))
    depth = rows["place"].map({place: i for i, place in enumerate(places)}).to_numpy()[order]
    ax.scatter(
        into.to_numpy()[order], out_of.to_numpy()[order], c=shades[depth], s=4, alpha=0.5,
        linewidths=0, rasterized=True,
    )  # fmt: skip
    for place in (places[0], places[len(places) // 2], places[-1]):
        ax.plot([], [], ".", color=shades[places.index(place)], label=place)
    both = pd.concat([into[seen], out_of[seen]])
    if len(both):
        ax.axline((both.min(), both.min()), (both.max(), both.max()), color="black",
                  linestyle="--", linewidth=0.8, label="in = out")  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("|score into a unit|")
    ax.set_ylabel("|score out of it|")
    name = style.name(str(rows["quantity"].iloc[0]))
    ax.set_title(f"{name}\noff by {100 * _defect(rows):.1f} %")
