"""IMP's ticket beside those of pruning at initialisation (question 4)."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from analysis.questions.tickets import TABLE, across_seeds, answer
from figures.intervals import INTERVALS, beside, by_pruner, chosen, title, zero_line
from figures.plotting import plots

view = plots(
    TABLE,
    numbers=("seed", "other_seed", "compression", "overlap", "density_distance"),
    points=("other_seed",),
    shown=f"{INTERVALS}; (d): each pair of seeds, which share seeds and are not independent",
)
_DISTANCE = "share of kept weights in other layers"


def message(table: pd.DataFrame) -> str:
    """Accuracies at the highest compression."""
    found = chosen(answer(table), quantity="top-1 accuracy")
    high = found["compression"].max()
    here = found[found["compression"] == high].sort_values("estimate", ascending=False)
    words = [
        f"{by_pruner(n)['label']} {e:.0f} %"
        for n, e in zip(here["pruner"], here["estimate"], strict=True)
    ]
    return f"Tickets at compression {high:,g}: {', '.join(words)}"


def _by_compression(rows: pd.DataFrame, ax: Axes, quantity: str, label: str, what: str) -> None:
    found = chosen(answer(rows), quantity=quantity).sort_values("compression", kind="stable")
    at = "×" + found["compression"].map("{:,g}".format)
    beside(found.assign(at=at), ax, x="at", by="pruner")
    ax.set(xlabel="compression", ylabel=label)
    title(found, ax, what)


@view
def plot(rows: pd.DataFrame, ax: Axes) -> None:
    """Top-1 accuracy of each ticket, by compression."""
    _by_compression(rows, ax, "top-1 accuracy", "accuracy (%)", "top-1 accuracy")


@view
def overlaps(rows: pd.DataFrame, ax: Axes) -> None:
    """Overlap with IMP's ticket of the same seed: 0 is chance, 1 the most that the layers allow."""
    quantity = "overlap beyond chance, with IMP's ticket"
    _by_compression(rows, ax, quantity, "overlap", "overlap with IMP beyond chance")
    zero_line(ax)


@view
def distances(rows: pd.DataFrame, ax: Axes) -> None:
    """Share of the kept weights that lie in other layers than IMP's."""
    quantity, what = f"{_DISTANCE}, than in IMP's ticket", "kept in other layers than IMP"
    _by_compression(rows, ax, quantity, "share of kept", what)
    ax.set_ylim(bottom=0)


@view
def stability(rows: pd.DataFrame, ax: Axes) -> None:
    """The same between two seeds of one pruner: every pair a dot, because pairs share seeds."""
    pairs = across_seeds(rows)
    high = pairs["compression"].max()
    looks = {pruner: by_pruner(pruner) for pruner in pairs["pruner"].unique()}
    sns.stripplot(
        pairs[pairs["compression"] == high].assign(
            name=lambda part: part["pruner"].map(lambda pruner: looks[pruner]["label"])
        ),
        x="name",
        y="density_distance",
        hue="name",
        palette={look["label"]: look["color"] for look in looks.values()},
        jitter=False,
        ax=ax,
    )
    ax.tick_params(axis="x", rotation=30)
    ax.set_ylim(bottom=0)
    ax.set(xlabel="", ylabel="share of kept")
    seeds = len({*pairs["seed"], *pairs["other_seed"]})
    ax.set_title(f"the same between pairs of {seeds} seeds, ×{high:,g}")


VIEWS = (plot, overlaps, distances, stability)
