"""IMP's ticket beside those of pruning at initialisation (question 4)."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from figures.estimates import beside, by_pruner, zero_line
from figures.plotting import plots

TABLE = "tickets"
PANELS: tuple[str, ...] = ()
IMP = "imp"


def _labelled(rows: pd.DataFrame) -> pd.DataFrame:
    """With each ticket's name, and its compression in words."""
    rows = rows.sort_values("compression", kind="stable")
    label = rows["pruner"].where(rows["levels"].astype(float) == 0, IMP)
    return rows.assign(label=label, at="×" + rows["compression"].map("{:,g}".format))


def _beside_imp(rows: pd.DataFrame) -> pd.DataFrame:
    rows = _labelled(rows)
    return rows[(rows["other"] == IMP) & (rows["label"] != IMP)]


@plots(TABLE)
def plot(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Top-1 accuracy of each ticket, by compression.

    Args:
        rows: a ``tickets`` table of one network.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    first = _labelled(rows)
    other = first.assign(
        label=first["other"], seed=first["other_seed"], best_top1=first["other_best_top1"]
    )
    each = pd.concat([first, other]).dropna(subset=["best_top1"])
    each = each.drop_duplicates(["label", "seed", "compression"])
    beside(each, ax, x="at", by="label", value="best_top1", looks=by_pruner)
    ax.set_xlabel("compression")
    ax.set_ylabel("top-1 accuracy (%)")


@plots(TABLE)
def overlaps(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Overlap with IMP's ticket of the same seed: 0 is chance, 1 the most that the layers allow.

    Args:
        rows: a ``tickets`` table of one network.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    part = _beside_imp(rows)
    beside(part, ax, x="at", by="label", value="beyond_chance", looks=by_pruner)
    zero_line(ax)
    ax.set_xlabel("compression")
    ax.set_ylabel("overlap with IMP beyond chance")


@plots(TABLE)
def distances(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """Share of the kept weights that lie in other layers than IMP's.

    Args:
        rows: a ``tickets`` table of one network.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    part = _beside_imp(rows)
    beside(part, ax, x="at", by="label", value="density_distance", looks=by_pruner)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("compression")
    ax.set_ylabel("kept in other layers than IMP (share)")


@plots(TABLE)
def stability(rows: pd.DataFrame, ax: Axes, published: pd.DataFrame | None) -> None:
    """The same between two seeds of one pruner: every pair a dot, because pairs share seeds.

    Args:
        rows: a ``tickets`` table of one network.
        ax: where to draw; a new figure without it.
        published: nothing is published.
    """
    part = _labelled(rows)
    part = part[part["other"] == part["label"]]
    names = list(part["label"].unique())
    high = part["compression"].max()
    for place, name in enumerate(names):
        group = part[(part["label"] == name) & (part["compression"] == high)]
        look = {key: value for key, value in by_pruner(str(name)).items() if key != "label"}
        ax.plot([place] * len(group), group["density_distance"], linestyle="none", **look)
    ax.set_xticks(range(len(names)), [by_pruner(str(name))["label"] for name in names])
    ax.tick_params(axis="x", rotation=30)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("kept in other layers (share)")
    seeds = len({*part["seed"], *part["other_seed"]})
    ax.set_title(f"between pairs of {seeds} seeds, ×{high:,g}")


VIEWS = (plot, overlaps, distances, stability)
