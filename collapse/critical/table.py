"""Rows of the ``critical`` and ``layers`` tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from collapse import tables
from collapse.critical.result import Critical
from collapse.critical.search import critical_compression
from collapse.options import Pruning, Setup
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
    tolerance: float = 0.0,
    effective: bool = True,
    watch: Callable[[str, float], None] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One row of the critical table, and its rows of the layers table."""
    start = time.perf_counter()
    result = critical_compression(
        prepared,
        options=plan,
        scan=scan,
        tolerance=tolerance,
        effective=effective,
        watch=watch,
    )
    certified = plan.schedule == "certified"
    iterations = result.iterations if certified else iterations_of(plan)
    settings = settings_row(setup, prepared.input_shape, plan, iterations)
    low, high = result.bracket
    row = {
        **settings,
        "parameters": result.parameters,
        "layers": result.layers,
        "maximal_compression": result.maximal_compression,
        "critical_compression": result.critical_compression,
        "critical_kept": result.critical_kept,
        "collapse_compression": result.collapse_compression,
        "monotone": result.monotone,
        "first_collapsed_layer": result.first_collapsed_layer,
        "connected_until": result.connected_until,
        "collapsed_is_cut": result.collapsed_is_cut,
        "effective_critical_compression": result.effective_critical_compression,
        "certified": result.certified,
        "evidence": result.evidence,
        "precision": result.precision,
        "bracket_low": low,
        "bracket_high": high,
        "evaluations": result.evaluations,
        "seconds": time.perf_counter() - start,
    }
    return row, [{**settings, **layer} for layer in _layer_rows(result)]


def _layer_rows(result: Critical) -> list[dict[str, Any]]:
    return [
        row
        for point in result.points
        for row in tables.layer_rows(result.sizes, point.kept, point.alive, point.scores)
    ]


def frame_of(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
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
