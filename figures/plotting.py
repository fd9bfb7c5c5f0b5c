"""What every figure shares: checks on its table, a note on what is missing, panels."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, update_wrapper
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.published import NETWORKS
from analysis.questions import finished
from collapse.errors import RequestError, unknown
from collapse.plots import style
from collapse.tables import COLUMNS, SETTINGS

PUBLISHED: dict[str, Any] = {
    "color": "black",
    "linestyle": "none",
    "marker": "x",
    "markersize": 4,
    "markeredgewidth": 0.7,
}

_AT_LEAST_ONE = ("compression", "parameters", "iterations")


@dataclass
class View:
    """One panel: ``view(rows, *, ax=None) -> Axes``.

    What it draws of a table is said by the function that it is made of (``plots``); that of the
    paper's figures also takes ``published``, the paper's numbers, which are drawn as crosses.
    """

    draw: Callable[..., None]
    table: str
    one: Sequence[str]
    numbers: Sequence[str]
    points: Sequence[str]
    shown: str = ""
    known: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        update_wrapper(self, self.draw)

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
            RequestError: a column is missing, there is no row or none is finished, no or several
                values in a column of ``one``, or one that is not ``known``.
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
        for column in {"model": None, "pruner": None, **dict.fromkeys(one)}:
            if column in done and done[column].isna().any():
                raise RequestError(f"table '{name}': the column '{column}' has empty cells")
        for column in one:
            values = done[column].unique()
            if len(values) > 1:
                few = ", ".join(map(str, values[:3])) + (", …" if len(values) > 3 else "")
                raise RequestError(f"one panel shows one {column}: expected one, got {few}")
        for column, allowed in self.known.items():
            for value in done[column].dropna().unique():
                if value not in allowed:
                    raise RequestError(f"table '{name}': {unknown(column, str(value), allowed)}")
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
    shown: str = "",
    known: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Callable[[Callable[..., None]], View]:
    """Make a ``View`` of a function that draws the finished rows of a table on axes.

    Args:
        table: the name of its table.
        one: columns in which the rows of one panel are all alike.
        numbers: columns that must be finite numbers.
        points: what tells points apart beside the settings, compression and levels.
        shown: what its points, bars and bands are, in words; stands below the whole figure.
        known: the values that a column can have, where each is drawn in its own way.
    """
    return lambda draw: View(draw, table, one, numbers, points, shown, known)


def settings_of(table: pd.DataFrame) -> str:
    """Networks, datasets and how many seeds, of the finished rows.

    Example:
        >>> row = {"model": "fc", "dataset": "digits", "seed": 0}
        >>> settings_of(pd.DataFrame([row, {**row, "seed": 1}]))
        'fc on digits, 2 seeds'
    """
    done = table[finished(table)]
    names = [_few(list(done[column].unique()), f"{column}s") for column in ("model", "dataset")]
    seeds = done.groupby(["model", "dataset"])["seed"].nunique()
    few, most = int(seeds.min()), int(seeds.max())
    count = f"{few}" if few == most else f"{few} to {most}"
    return f"{' on '.join(names)}, {count} seed{'s' * (most != 1)}"


def _few(values: Sequence[object], what: str) -> str:
    return ", ".join(map(str, values)) if len(values) <= 6 else f"{len(values)} {what}"


def panels(
    figure: ModuleType,
    table: pd.DataFrame,
    *,
    published: pd.DataFrame | None = None,
    size: style.Size | None = None,
) -> Figure:
    """The whole figure: one panel for each value of the columns that it is divided by.

    Above it stands its message, which the module makes of the numbers (``message(table)``), below
    it what was measured on which network, on how many seeds, and what bars and bands are.

    Args:
        figure: a module of this package, with ``plot``; with ``PANELS``, the columns of its rows
            and columns of panels, or one column whose panels fill rows (``SAME_Y``: which have the
            same y axis). With ``VIEWS``, several such functions, each draws the whole table in a
            panel of its own.
        published: the paper's numbers, drawn over ours.
        size: column, page or slide; without it a column for one panel, a page for several.

    Raises:
        RequestError: as from ``plot``.
    """
    figure.plot.check(table)
    views, divided = getattr(figure, "VIEWS", ()), list(getattr(figure, "PANELS", ()))
    for column in divided:
        if table[column].isna().any():
            raise RequestError(f"table '{figure.TABLE}': the column '{column}' has empty cells")
    cells: list[Callable[..., object]] = [partial(view, table) for view in views]
    if not views:
        groups = table.groupby(divided, sort=False) if divided else [((), table)]
        for values, rows in groups:
            theirs = _of_panel(published, figure, rows, dict(zip(divided, values, strict=True)))
            cells.append(partial(_panel, figure.plot, values, rows, theirs))
    size = size or ("page" if len(cells) > 1 else "column")
    across = _across(size, len(cells), bool(views))
    if len(divided) == 2 and size != "column":
        across = table[divided[1]].nunique()
    down = math.ceil(len(cells) / across)
    with style.styled(size):
        drawn = style.new_figure(size, down, across)
        axes = drawn.subplots(down, across, squeeze=False).ravel().tolist()
        for ax, cell in zip(axes, cells, strict=False):
            cell(ax=ax)
        axes, unused = axes[: len(cells)], axes[len(cells) :]
        for ax in unused[1:]:
            ax.remove()
        if len(axes) > 1:
            _letter(axes)
        if not views:
            _share_labels(axes, across)
        if hasattr(figure, "message"):
            style.entitle(drawn, figure.message(table))
        if getattr(figure, "SAME_Y", False):
            _share_y(axes)
        style.add_legend(axes, _below(figure, table, published), *unused[:1])
        style.make_room(drawn, size)
    return drawn


def _across(size: style.Size, panels: int, views: bool) -> int:
    """Panels side by side: three where they are alike, two where each has labels of its own."""
    if size == "column":
        return 1 if views or panels < 4 else 2
    return min(panels, 2 if views and panels != 3 else 3)


def _share_y(axes: list[Axes]) -> None:
    """The same y axis for all, so that panels can be compared by eye."""
    ends = [end for ax in axes for end in ax.get_ylim()]
    for ax in axes:
        ax.set_ylim(min(ends), max(ends))


def _letter(axes: list[Axes]) -> None:
    for letter, ax in zip(string.ascii_lowercase, axes, strict=False):
        ax.set_title(f"({letter}) {ax.get_title(loc='left')}", loc="left")


def _below(figure: ModuleType, table: pd.DataFrame, published: pd.DataFrame | None) -> str:
    """What was measured, and what points, bars and bands are: each sentence once."""
    views = getattr(figure, "VIEWS", (figure.plot,))
    sentences = dict.fromkeys([settings_of(table), *(v.shown for v in views if v.shown)])
    if published is not None:
        sentences["Published by Tanaka et al. 2020"] = None
    return ". ".join(sentences) + "."


def _panel(
    plot: View, values: Sequence[object], rows: pd.DataFrame, theirs: dict[str, Any], *, ax: Axes
) -> None:
    if finished(rows).any():
        plot(rows, ax=ax, **theirs)
    else:
        ax.set_title(", ".join(map(str, values)))
        ax.set_title(plot.note(rows), loc="right", color="firebrick")


def _of_panel(
    published: pd.DataFrame | None, figure: ModuleType, rows: pd.DataFrame, values: dict[str, Any]
) -> dict[str, pd.DataFrame]:
    """The published numbers of a panel, for a view that takes them; nothing if there are none."""
    if published is None:
        return {}
    name = figure.__name__.rpartition(".")[2].replace("_", "-")
    for column, networks in NETWORKS.get(name, {}).items():
        if column in rows and not rows[column].isin(networks).all():
            return {}  # of another network
    for column, value in values.items():
        if column in published.columns:
            published = published[published[column] == value]
    return {"published": published} if len(published) else {}


def _share_labels(axes: list[Axes], across: int) -> None:
    """Each label once: at the left and at the foot of its column of panels."""
    labels = {ax.get_ylabel() for ax in axes}
    for place, ax in enumerate(axes):
        if place % across and len(labels) == 1:
            ax.set_ylabel("")
        if place + across < len(axes):
            ax.set_xlabel("")
