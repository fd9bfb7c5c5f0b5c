"""R at initialisation against the accuracy that networks reach. (experiment 1)"""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from analysis.questions.proxy import ALL, CHAINS, MEASURES, TABLE, answer, networks
from collapse.plots import style
from figures.intervals import chosen
from figures.plotting import plots

_NUMBERS = ("seed", "parameters", "layer_norms", "published_top1")
view = plots(
    TABLE,
    one=(),
    numbers=_NUMBERS,
    shown="Points: networks; rank correlation: Spearman's, with its 95 % bootstrap interval",
)


def _correlation(table: pd.DataFrame, column: str, group: str) -> str:
    found = chosen(answer(table), of=MEASURES[column], group=group).iloc[0]
    known = "" if pd.isna(found["low"]) else f" [{found['low']:.2f}, {found['high']:.2f}]"
    return f"{found['estimate']:.2f}{known}"


def message(table: pd.DataFrame) -> str:
    """R's rank correlation and what it has to beat."""
    return (
        f"Rank correlation with published accuracy: R {_correlation(table, 'log10_R', ALL)}, "
        f"without LayerNorm {_correlation(table, 'log10_R', CHAINS)}; the number of parameters "
        f"{_correlation(table, 'log10_parameters', ALL)}"
    )


def _scatter(rows: pd.DataFrame, ax: Axes, column: str, label: str) -> None:
    each = networks(rows)
    for group, marked, (colour, marker) in (
        (CHAINS, each["layer_norms"] == 0, style.VARIANTS[0]),
        ("with LayerNorm", each["layer_norms"] > 0, style.VARIANTS[2]),
    ):
        part = each[marked]
        ax.scatter(
            part[column], part["published_top1"], s=14, color=colour, marker=marker,
            edgecolor="black", linewidth=0.4, label=group,
        )  # fmt: skip
    ax.set(xlabel=label, ylabel="published top-1 (%)")


@view
def plot(rows: pd.DataFrame, ax: Axes) -> None:
    """SynFlow's R of the network as initialised."""
    _scatter(rows, ax, "log10_R", "log10 R at initialisation")
    ax.set_title("R", loc="left")


@view
def parameters(rows: pd.DataFrame, ax: Axes) -> None:
    """What any proxy has to beat: the number of parameters."""
    _scatter(rows, ax, "log10_parameters", "log10 parameters")
    ax.set_title("size", loc="left")


VIEWS = (plot, parameters)
