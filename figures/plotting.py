"""What every figure shares: checks on its table, a note on what is missing, panels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from collapse.errors import RequestError
from collapse.plots import style
from collapse.tables import COLUMNS, SETTINGS

Draw = Callable[[pd.DataFrame, Axes, pd.DataFrame | None], None]
PUBLISHED: dict[str, Any] = {
    "color": "black",
    "linestyle": "none",
    "marker": "x",
    "markersize": 3.5,
    "alpha": 0.6,
}


# What each table's finished rows must hold for a figure: finite numbers.
_NUMBERS = {
    "accuracy": ("seed", "compression", "best_top1"),
    "layers": ("compression", "layer_index", "parameters", "kept", "density"),
    "neurons": ("score_in", "score_out"),
    "cuts": ("compression", "iterations", "steps", "max_prune_to_cut_ratio"),
    "score_dynamics": ("level", "epoch", "parameters", "score_mean"),
    "outcomes": ("seed", "compression", "layer_index", "parameters", "kept"),
    "iterations": ("seed", "iterations", "critical_compression", "compression", "density"),
    "costs": ("compression", "seconds", "flops", "epoch_seconds", "epoch_flops"),
    "tickets": ("seed", "other_seed", "compression", "overlap", "density_distance"),
    "dead_inputs": ("seed", "compression", "kept", "dead_kept", "best_top1"),
}
_AT_LEAST_ONE = ("compression", "parameters", "iterations")


def plots(
    table: str, one: Sequence[str] = ("model",), numbers: Sequence[str] = ()
) -> Callable[[Draw], Callable[..., Axes]]:
    """Make ``plot(table, *, ax=None, published=None) -> Axes`` of a drawing function.

    The drawing function gets the finished rows only.

    Args:
        table: the name of its table (``tables.COLUMNS``).
        one: columns in which the rows of one panel are all alike.
        numbers: further columns that must be finite numbers.
    """

    def decorate(draw: Draw) -> Callable[..., Axes]:
        @style.on_own_figure()
        def plot(
            rows: pd.DataFrame, *, ax: Axes | None = None, published: pd.DataFrame | None = None
        ) -> Axes:
            assert ax is not None
            done = check(rows, table, one)
            draw(_numeric(done, table, numbers), ax, published)
            style.readable_logarithms(ax)
            if len(done) < len(rows):
                ax.set_title(note(rows), loc="right", color="firebrick")
            return ax

        plot.__doc__ = draw.__doc__
        plot.__module__ = draw.__module__
        return plot

    return decorate


def check(rows: pd.DataFrame, table: str, one: Sequence[str] = ()) -> pd.DataFrame:
    """The finished rows, if they can be drawn.

    Raises:
        RequestError: a column is missing, there is no row or none is finished, or no or several
            values in a column of ``one``.
    """
    for column in [*COLUMNS[table], "finished"]:
        if column not in rows.columns:
            raise RequestError(f"expected a table '{table}': it lacks the column '{column}'")
    if rows.empty:
        raise RequestError(f"the table '{table}' is empty: expected at least one row")
    done = rows[finished(rows)]
    if done.empty:
        raise RequestError(
            f"nothing to draw: {note(rows)} are finished; run the experiment again to go on"
        )
    for column in one:
        values = done[column].unique()
        if pd.isna(values).any():
            raise RequestError(f"table '{table}': the column '{column}' has empty cells")
        if len(values) > 1:
            few = ", ".join(map(str, values[:3])) + (", …" if len(values) > 3 else "")
            raise RequestError(f"one panel shows one {column}: expected one, got {few}")
    return done


def finished(rows: pd.DataFrame) -> pd.Series[bool]:
    """Which rows are finished.

    Raises:
        RequestError: anything but true and false.
    """
    words = rows["finished"].astype(str).str.lower()
    wrong = words[~words.isin(["true", "false"])]
    if len(wrong):
        got = rows["finished"][wrong.index[0]]
        raise RequestError(f"the column 'finished': expected true or false, got '{got}'")
    return words == "true"


def _numeric(rows: pd.DataFrame, table: str, more: Sequence[str]) -> pd.DataFrame:
    """The rows with numbers where there must be numbers."""
    rows = rows.infer_objects()
    for column in (*_NUMBERS[table], *more):
        values = pd.to_numeric(rows[column], errors="coerce")
        wrong = values.isna() | np.isinf(values.astype(float))
        expected = "finite numbers"
        if column in _AT_LEAST_ONE:
            wrong |= values < 1
            expected = "numbers from 1 up"
        if wrong.any():
            got = rows[column].loc[wrong].iloc[0]
            raise RequestError(
                f"table '{table}', column '{column}': expected {expected}, got '{got}'"
            )
        rows = rows.assign(**{column: values})
    return rows


def note(rows: pd.DataFrame) -> str:
    """How many points are there, of how many."""
    keys = (*SETTINGS, "compression", "levels", "quantity", "weights", "control", "other_seed")
    points = rows[[key for key in keys if key in rows.columns]]
    done = points[finished(rows)].drop_duplicates()
    return f"{len(done)} of {len(points.drop_duplicates())} points"


def panels(
    figure: ModuleType,
    table: pd.DataFrame,
    *,
    published: pd.DataFrame | None = None,
    size: style.Size | None = None,
) -> Figure:
    """The whole figure: one panel for each value of the columns that it is divided by.

    Args:
        figure: a module of this package, with ``plot`` and ``PANELS``: the columns of its rows
            and columns of panels, or one column whose panels fill rows. With ``VIEWS``, several
            such functions, each draws the whole table in a panel of its own.
        published: the paper's numbers, drawn over ours.
        size: column, page or slide; without it a column for one panel, a page for several.

    Raises:
        RequestError: as from ``plot``.
    """
    check(table, figure.TABLE)
    if hasattr(figure, "VIEWS"):
        return _views(figure.VIEWS, table, size or "page")
    divided: tuple[str, ...] = figure.PANELS
    for column in divided:
        if table[column].isna().any():
            raise RequestError(f"table '{figure.TABLE}': the column '{column}' has empty cells")
    groups = list(table.groupby(list(divided), sort=False)) if divided else [((), table)]
    size = size or default_size(figure, table)
    with style.styled(size):
        if len(divided) == 2:
            across = table[divided[1]].nunique()
        else:
            most = 1 if size == "column" else 3
            across = min(len(groups), most)
        down = math.ceil(len(groups) / across)
        drawn = style.new_figure(size, down, across)
        axes = drawn.subplots(down, across, squeeze=False).ravel()
        for ax, (values, rows) in zip(axes, groups, strict=False):
            if not finished(rows).any():
                ax.set_title(", ".join(map(str, values)))
                ax.set_title(note(rows), loc="right", color="firebrick")
                continue
            figure.plot(rows, ax=ax, published=_of_panel(published, divided, values))
        for ax in axes[len(groups) :]:
            ax.set_axis_off()
        _shared_labels(axes.tolist(), len(groups), across)
        style.add_legend(axes[: len(groups)].tolist())
    return drawn


def _views(views: Sequence[Callable[..., Axes]], table: pd.DataFrame, size: style.Size) -> Figure:
    """A panel a view, side by side where the width allows."""
    with style.styled(size):
        across = 1 if size == "column" else min(len(views), 2)
        down = math.ceil(len(views) / across)
        drawn = style.new_figure(size, down, across)
        axes = drawn.subplots(down, across, squeeze=False).ravel().tolist()
        for ax, view in zip(axes, views, strict=False):
            view(table, ax=ax)
        for ax in axes[len(views) :]:
            ax.set_axis_off()
        style.add_legend(axes[: len(views)])
    return drawn


def default_size(figure: ModuleType, table: pd.DataFrame) -> style.Size:
    """A column for one panel, a page for several."""
    several = figure.PANELS and len(table[list(figure.PANELS)].drop_duplicates()) > 1
    return "page" if several else "column"


def _of_panel(
    published: pd.DataFrame | None, divided: Sequence[str], values: Any
) -> pd.DataFrame | None:
    if published is None:
        return None
    for column, value in zip(divided, values, strict=True):
        if column in published.columns:
            published = published[published[column] == value]
    return published if len(published) else None


def _shared_labels(axes: list[Axes], count: int, across: int) -> None:
    """Each label once: at the left and at the foot of its column of panels."""
    labels = {ax.get_ylabel() for ax in axes[:count]}
    for place, ax in enumerate(axes[:count]):
        if place % across and len(labels) == 1:
            ax.set_ylabel("")
        if place + across < count:
            ax.set_xlabel("")
