"""Accuracy against compression (figure 1; a panel of figure 6)."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions.accuracy import TABLE, answer, critical
from collapse.plots import style
from figures.intervals import RANGE, curves
from figures.plotting import PUBLISHED, plots

PANELS = ("dataset", "model")
NUMBERS = ("seed", "compression", "best_top1")
# No pruner's own marker looks like it.
_CRITICAL: dict[str, Any] = {
    "marker": "|", "linestyle": "none", "markersize": 11, "markeredgewidth": 2, "clip_on": False,
    "zorder": 3,
}  # fmt: skip


def message(table: pd.DataFrame) -> str:
    """Accuracies at the highest compression at which one is at least half of the dense one."""
    found = answer(table)
    tops = found.groupby("compression")["estimate"].max()
    good = tops[tops >= tops.iloc[0] / 2]
    at = float(good.index.max())
    here = found[found["compression"] == at].sort_values("estimate", ascending=False)
    several = len(found[list(PANELS)].drop_duplicates()) > 1
    words = []
    for row in here.to_dict("records"):
        network = f" on {row['model']}, {row['dataset']}" if several else ""
        words.append(f"{style.name(row['pruner'])}{network} {row['estimate']:.0f} %")
    return f"At compression {style.number(at)}: {('; ' if several else ', ').join(words)}"


@plots(TABLE, one=("model", "dataset"), numbers=NUMBERS, shown=RANGE)
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None = None) -> None:
    """Best top-1 test accuracy against compression: mean and range over runs, by pruner.

    A bar at the foot marks each pruner's critical compression, a dashed line the maximum.
    """
    curves(answer(rows), ax, band=True)
    known, most = critical(rows), 1.3 * float(rows["compression"].max())
    marks = [(value, style.colour(n), "") for n, value in known.items() if value <= most]
    beyond = [style.name(n) for n, value in known.items() if value > most]
    if known:
        more = f"\n(beyond the axis: {', '.join(beyond)})" if beyond else ""
        marks.append((float("nan"), "black", f"critical compression{more}"))
    for value, colour, label in marks:
        foot = ax.get_xaxis_transform()
        (bar,) = ax.plot(
            [value], [0], color=colour, label=label or None, transform=foot, **_CRITICAL
        )
        bar.set_in_layout(False)  # it stands in the axis: the layout needs no room for it
    if "evidence" in rows and (cut := rows["evidence"] == "cut").any():
        # A network that is cut computes a constant.
        chance = float(rows.loc[cut, "best_top1"].iloc[0])
        ax.axhline(chance, color="black", linestyle=":", linewidth=0.8, label="chance (cut)")
    ax.set_xscale("log")
    maximum = rows["maximal_compression"].dropna()
    if len(maximum) and maximum.iloc[0] <= 1.3 * rows["compression"].max():
        ax.axvline(maximum.iloc[0], color="black", linestyle="--", linewidth=0.8, label="maximal")
    highest = float(rows["best_top1"].max())
    if published is not None:
        theirs = answer(published)
        for pruner, part in theirs.groupby("pruner", sort=False):
            name = str(pruner)
            look = {
                **PUBLISHED,
                "color": style.colour(name),
                "label": f"{style.name(name)}, published",
            }
            ax.plot(part["compression"], part["estimate"], **look)
        highest = max(highest, float(theirs["estimate"].max()))
    ax.set_ylim(0, max(1.0, 1.05 * highest))
    ax.set(xlabel="compression", ylabel="top-1 accuracy (%)")
    ax.set_title(f"{rows['model'].iloc[0]}, {rows['dataset'].iloc[0]}")
