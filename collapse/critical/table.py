"""Rows of the ``critical`` and ``layers`` tables."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from collapse import tables
from collapse.critical.result import Critical
from collapse.critical.search import critical_compression
from collapse.options import TOLERANCE, Pruning, Setup
from collapse.problem import Problem, settings_row
from collapse.pruning import iterations_of

if TYPE_CHECKING:
    import pandas as pd


def measure(
    setup: Setup,
    prepared: Problem,
    plan: Pruning,
    *,
    scan: int = 8,
    tolerance: float = TOLERANCE,
    effective: bool = True,
) -> dict[str, Any]:
    """One row of the critical table.

    Args:
        setup, plan: what the row's settings say; ``prepared`` is of the same setup.
        scan, tolerance, effective: see ``critical_compression``.

    Returns:
        The columns that ``tables.COLUMNS['critical']`` names, and a few more (docs/critical.md).

    Raises:
        RequestError: as ``critical_compression``.
    """
    start = time.perf_counter()
    found = critical_compression(
        prepared, options=plan, scan=scan, tolerance=tolerance, effective=effective
    )
    return rows_of(setup, prepared, plan, found, time.perf_counter() - start)[0]


def rows_of(
    setup: Setup, prepared: Problem, plan: Pruning, found: Critical, seconds: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What was found as a row of the critical table, and its rows of the layers table."""
    certified = plan.schedule == "certified"
    iterations = found.iterations if certified else iterations_of(plan)
    settings = settings_row(setup, prepared.input_shape, plan, iterations)
    low, high = found.bracket
    row = {
        **settings,
        "parameters": found.parameters,
        "layers": found.layers,
        "maximal_compression": found.maximal_compression,
        "critical_compression": found.critical_compression,
        "critical_kept": found.critical_kept,
        "collapse_compression": found.collapse_compression,
        "monotone": found.monotone,
        "first_collapsed_layer": found.first_collapsed_layer,
        "connected_until": found.connected_until,
        "collapsed_is_cut": found.collapsed_is_cut,
        "effective_critical_compression": found.effective_critical_compression,
        "certified": found.certified,
        "evidence": found.evidence,
        "precision": found.precision,
        "bracket_low": low,
        "bracket_high": high,
        "evaluations": found.evaluations,
        "seconds": seconds,
    }
    return row, [{**settings, **layer} for layer in _layer_rows(found)]


def _layer_rows(result: Critical) -> list[dict[str, Any]]:
    return [
        row
        for point in result.points
        for row in tables.layer_rows(result.sizes, point.kept, point.alive, point.scores)
    ]


def frame_of(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a table whose columns have one type each, also where all of their cells are empty."""
    import pandas as pd

    types = {
        "monotone": "boolean",
        "mode": "object",
        "first_collapsed_layer": "object",
        "collapse_compression": "float64",
        "connected_until": "float64",
        "collapsed_is_cut": "boolean",
        "effective_critical_compression": "float64",
    }
    return pd.DataFrame(rows).astype(types)
