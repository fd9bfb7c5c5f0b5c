"""What every figure shares: checks on its table, a note on what is missing, panels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import update_wrapper
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.questions import finished
from collapse.errors import RequestError
from collapse.plots import style
from collapse.tables import COLUMNS, SETTINGS

PUBLISHED: dict[str, Any] = {
    "color": "black",
    "linestyle": "none",
    "marker": "x",
    "markersize": 3.5,
    "alpha": 0.6,
}

_AT_LEAST_ONE = ("compression", "parameters", "iterations")


class View:
    """One panel: ``view(rows, *, ax=None) -> Axes``.

    What it draws of a table is said by the function that it is made of (``plots``); that of the
    paper's figures also takes ``published``, the paper's numbers, which are drawn as crosses.
    """

    def __init__(
        self,
        draw: Callable[..., None],
        table: str,
        one: Sequence[str],
        numbers: Sequence[str],
        points: Sequence[str],
    ) -> None:
        self.draw, self.table = draw, table
        self.one, self.numbers, self.points = one, numbers, points
        update_wrapper(self, draw)

    @style.on_own_figure()
    def __call__(
        self, rows: pd.DataFrame, *, ax: Axes | None = None, **published: pd.DataFrame
    ) -> Axes:
        """Draw the finished rows on ``ax``, a new figure's without it.

        Raises:
            RequestError: see ``check``; something in a column of ``numbers`` that is no number.
        """
        assert ax is not None
        done = self.check(rows, self.one)
        self.draw(self._numeric(done), ax, **published)
        style.readable_logarithms(ax)
        if len(done) < len(rows):
            ax.set_title(self.note(rows), loc="right", color="firebrick")
        return ax

    def check(self, rows: pd.DataFrame, one: Sequence[str] = ()) -> pd.DataFrame:
        """The finished rows, if they can be drawn.

        Raises:
            RequestError: a column is missing, there is no row or none is finished, or no or several
                values in a column of ``one``.
        """
        name = self.table
        for column in (*COLUMNS.get(name, SETTINGS), *self.one, *self.numbers, "finished"):
            if column not in rows.columns:
                raise RequestError(f"expected a table '{name}': it lacks the column '{column}'")
        if rows.empty:
            raise RequestError(f"the table '{name}' is empty: expected at least one row")
        done = rows[finished(rows)]
        if done.empty:
            there = f"{self.note(rows)} are finished"
            raise RequestError(f"nothing to draw: {there}; run the experiment again to go on")
        for column in one:
            values = done[column].unique()
            if pd.isna(values).any():
                raise RequestError(f"table '{name}': the column '{column}' has empty cells")
            if len(values) > 1:
                few = ", ".join(map(str, values[:3])) + (", …" if len(values) > 3 else "")
                raise RequestError(f"one panel shows one {column}: expected one, got {few}")
        return done

    def note(self, rows: pd.DataFrame) -> str:
        """How many points are there, of how many."""
        keys = (*SETTINGS, "compression", "levels", *self.points)
        points = rows[[key for key in keys if key in rows.columns]]
        done = points[finished(rows)].drop_duplicates()
        return f"{len(done)} of {len(points.drop_duplicates())} points"

    def _numeric(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows with numbers where there must be numbers."""
        rows = rows.infer_objects()
        for column in self.numbers:
            values = pd.to_numeric(rows[column], errors="coerce")
            wrong = values.isna() | np.isinf(values.astype(float))
            expected = "finite numbers"
            if column in _AT_LEAST_ONE:
                wrong |= values < 1
                expected = "numbers from 1 up"
            if wrong.any():
                got = rows[column].loc[wrong].iloc[0]
                raise RequestError(
                    f"table '{self.table}', column '{column}': expected {expected}, got '{got}'"
                )
            rows = rows.assign(**{column: values})
        return rows


def plots(
    table: str,
    one: Sequence[str] = ("model",),
    numbers: Sequence[str] = (),
    points: Sequence[str] = (),
) -> Callable[[Callable[..., None]], View]:
    """Make a ``View`` of a function that draws the finished rows of a table on axes.

    Args:
        table: the name of its table.
        one: columns in which the rows of one panel are all alike.
        numbers: columns that must be finite numbers.
        points: what tells points apart beside the settings, compression and levels.
    """
    return lambda draw: View(draw, table, one, numbers, points)


def panels(
    figure: ModuleType,
    table: pd.DataFrame,
    *,
    published: pd.DataFrame | None = None,
    size: style.Size | None = None,
) -> Figure:
    """The whole figure: one panel for each value of the columns that it is divided by.

    Args:
        figure: a module of this package, with ``plot``; with ``PANELS``, the columns of its rows
            and columns of panels, or one column whose panels fill rows. With ``VIEWS``, several
            such functions, each draws the whole table in a panel of its own.
        published: the paper's numbers, drawn over ours.
        size: column, page or slide; without it a column for one panel, a page for several.

    Raises:
        RequestError: as from ``plot``.
    """
    figure.plot.check(table)
    if hasattr(figure, "VIEWS"):
        return _views(figure.VIEWS, table, size or "page")
    divided: tuple[str, ...] = getattr(figure, "PANELS", ())
    for column in divided:
        if table[column].isna().any():
            raise RequestError(f"table '{figure.TABLE}': the column '{column}' has empty cells")
    groups = list(table.groupby(list(divided), sort=False)) if divided else [((), table)]
    # A column for one panel, a page for several.
    size = size or ("page" if len(groups) > 1 else "column")
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
                ax.set_title(figure.plot.note(rows), loc="right", color="firebrick")
                continue
            figure.plot(rows, ax=ax, **_of_panel(published, divided, values))
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


def _of_panel(
    published: pd.DataFrame | None, divided: Sequence[str], values: Any
) -> dict[str, pd.DataFrame]:
    """The published numbers of a panel, for a view that takes them; nothing if there are none."""
    if published is None:
        return {}
    for column, value in zip(divided, values, strict=True):
        if column in published.columns:
            published = published[published[column] == value]
    return {"published": published} if len(published) else {}


def _shared_labels(axes: list[Axes], count: int, across: int) -> None:
    """Each label once: at the left and at the foot of its column of panels."""
    labels = {ax.get_ylabel() for ax in axes[:count]}
    for place, ax in enumerate(axes[:count]):
        if place % across and len(labels) == 1:
            ax.set_ylabel("")
        if place + across < count:
            ax.set_xlabel("")
