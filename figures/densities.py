"""Where collapse occurs: density of each layer against compression (figure 2)."""

from __future__ import annotations

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from collapse.errors import RequestError
from collapse.plots import style
from figures.plotting import PUBLISHED, plots

TABLE = "layers"
PANELS = ("pruner",)
NUMBERS = ("compression", "layer_index", "parameters", "kept", "density")


@plots(TABLE, one=("model", "pruner"), numbers=NUMBERS)
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None = None) -> None:
    """A curve a layer, from the input (dark) to the output (bright); ▽ where a layer is empty."""
    layers = int(rows["layer_index"].max())
    shades = colormaps[style.SEQUENCE]
    if rows["compression"].nunique() < 2:
        raise RequestError("densities are curves: expected at least two compressions, got one")
    for index, part in rows.groupby("layer_index"):
        part = part.sort_values("compression")
        some = part[part["kept"] > 0]
        labelled = index in (1, (layers + 1) // 2, layers)
        colour = shades(0.9 * (int(str(index)) - 1) / max(1, layers - 1))
        label = f"layer {index}" if labelled else None
        ax.plot(some["compression"], some["density"], color=colour, label=label)
        empty = part[part["kept"] == 0]
        if len(empty):
            first = empty.iloc[0]["compression"]
            foot = ax.get_xaxis_transform()
            (mark,) = ax.plot([first], [0.02], "v", color=colour, transform=foot, clip_on=False)
            mark.set_in_layout(False)
    if (rows["kept"] == 0).any():
        ax.plot([], [], "v", color="black", label="first empty")
    ends = [1.0, rows["compression"].max()]
    ax.plot(ends, [1 / end for end in ends], ":", color="black", linewidth=0.8, label="equal")
    if published is not None:
        shown = published[(published["density"] > 0) & published["compression"].le(ends[1])]
        ax.plot(shown["compression"], shown["density"], label="published", **PUBLISHED)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("compression")
    ax.set_ylabel("density of a layer")
    ax.set_title(f"{style.name(str(rows['pruner'].iloc[0]))}, {rows['model'].iloc[0]}")
