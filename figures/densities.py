"""Where collapse occurs: density of each layer at each compression, a heat map (figure 2)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from analysis.agreement import first_empty
from analysis.questions import finished
from collapse.errors import RequestError
from collapse.plots import style
from figures.plotting import plots

Numbers = NDArray[np.float64]
TABLE = "layers"
PANELS = ("pruner",)
NUMBERS = ("compression", "layer_index", "parameters", "kept", "density")
LOWEST = -6.0  # of log10 density: what is below has the colour of it
_EMPTY: dict[str, Any] = {"facecolor": "white", "edgecolor": "#777777", "linewidth": 0}
# Where a table says which layers are cut layers.
_HATCHES = {True: ("////", "cut layer empty"), False: ("....", "branch empty")}
_ANY = ("////", "layer empty")


def message(table: pd.DataFrame) -> str:
    """Who loses a layer, and from which compression on."""
    found = first_empty(table[finished(table)])
    lost = sorted((n for n in found if found[n].layers), key=lambda n: found[n].compression)
    words = [f"{style.name(n)} empties {found[n]}" for n in lost]
    whole: dict[str, list[str]] = {}
    for name, first in found.items():
        if not first.layers:
            whole.setdefault(str(first), []).append(style.name(name))
    words += [f"{' and '.join(names)} {first}" for first, names in whole.items()]
    return "Where collapse first occurs: " + "; ".join(words)


@plots(TABLE, one=("model", "pruner"), numbers=NUMBERS)
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None = None) -> None:
    """A row a layer from the input (top) to the output, a column a compression.

    Empty layers are hatched, cut layers and branches apart where the table says which they are
    (``is_cut``); a dot marks what is empty in the published run.
    """
    if rows["compression"].nunique() < 2:
        raise RequestError("densities need columns: expected at least two compressions, got one")
    density = rows.pivot_table("density", "layer_index", "compression")
    compressions = density.columns.to_numpy(float)
    with np.errstate(divide="ignore"):
        shades = density.apply(np.log10).clip(lower=LOWEST)
    sns.heatmap(
        shades.where(density > 0), ax=ax, cbar=False, cmap=style.SEQUENCE, vmin=LOWEST, vmax=0,
        rasterized=True,
    )  # fmt: skip
    for row in rows[rows["kept"] == 0].to_dict("records"):
        corner = (
            int(np.searchsorted(compressions, row["compression"])),
            int(np.searchsorted(density.index.to_numpy(), row["layer_index"])),
        )
        hatch, _ = _HATCHES.get(row["is_cut"], _ANY) if "is_cut" in row else _ANY
        ax.add_patch(Rectangle(corner, 1, 1, hatch=hatch, **_EMPTY))
    for spine in ax.spines.values():
        spine.set_visible(True)
    if published is not None:
        _mark_empty(published, compressions, density.index.to_numpy(float), ax)
    _key(rows, ax, published is not None)
    _ticks(compressions, density.index.to_numpy(float), ax)
    ax.set_xlabel("compression")
    ax.set_ylabel("layer")
    ax.set_title(style.name(str(rows["pruner"].iloc[0])))


def _mark_empty(
    published: pd.DataFrame, compressions: np.ndarray, layers: np.ndarray, ax: Axes
) -> None:
    """A dot in each cell whose layer is empty in the published run."""
    x, y = [], []
    for row in published[published["density"] == 0].to_dict("records"):
        column = np.flatnonzero(np.isclose(compressions, row["compression"]))
        line = np.flatnonzero(layers == row["layer_index"])
        if len(column) and len(line):
            x.append(column[0] + 0.5)
            y.append(line[0] + 0.5)
    ax.plot(x, y, "o", color="firebrick", markersize=2.5)


def _key(rows: pd.DataFrame, ax: Axes, published: bool) -> None:
    """For the legend alone: a few densities, and what hatching and dots mean."""
    colours = colormaps[style.SEQUENCE]
    for power in range(0, int(LOWEST) - 1, -2):
        word = f"density $10^{{{power}}}$" if power else "density 1"
        below = " or less" if power == LOWEST else ""
        ax.bar(0, 0, color=colours(1 - power / LOWEST), label=word + below)
    empty = rows[rows["kept"] == 0]
    known = empty["is_cut"] if "is_cut" in empty else pd.Series(None, index=empty.index)
    for hatch, label in dict.fromkeys(_HATCHES.get(cut, _ANY) for cut in known):
        ax.bar(0, 0, hatch=hatch, label=label, **_EMPTY)
    if published:
        ax.plot([], [], "o", color="firebrick", markersize=2.5, label="empty in the published run")


def _ticks(compressions: Numbers, layers: Numbers, ax: Axes) -> None:
    columns = range(0, len(compressions), max(1, math.ceil(len(compressions) / 4)))
    ax.set_xticks([c + 0.5 for c in columns], [_short(compressions[c]) for c in columns])
    lines = range(0, len(layers), max(1, math.ceil(len(layers) / 7)))
    ax.set_yticks([line + 0.5 for line in lines], [f"{layers[line]:g}" for line in lines])
    ax.tick_params(axis="both", rotation=0)


def _short(value: float) -> str:
    """``4.2M``."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
