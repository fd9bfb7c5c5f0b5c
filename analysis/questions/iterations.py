"""Is it the score or the iteration? (question 1)"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.questions import answers, finished
from collapse import tables

if TYPE_CHECKING:
    import pandas as pd

TABLE = tables.declare(
    "iterations",
    *tables.SETTINGS,
    *("maximal_compression", "critical_compression", "collapse_compression", "monotone"),
    *("first_collapsed_layer", "evidence", "compression", "layer", "layer_index"),
    *("parameters", "kept", "density", "finished"),
)


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """log10 of the critical compression, and how many layers are empty at the compression."""
    by = [*tables.SETTINGS, "compression"]
    found = table[finished(table)].groupby(by, dropna=False, sort=False).agg(
        critical=("critical_compression", "first"),
        empty=("kept", lambda kept: int((kept == 0).sum())),
    )  # fmt: skip
    each = found.reset_index()
    each = each.assign(mode=None, critical=answers.log10(each["critical"]))
    parts = []
    for iterations, rows in each.groupby("iterations"):
        alone = rows.drop(columns="compression")
        for one in (
            *answers.means(alone, "critical", "log10 critical compression"),
            *answers.means(rows, "empty", "empty layers"),
        ):
            where = f"{one['where']}, iterations {iterations}"
            parts.append({**one, "where": where, "iterations": iterations})
    return answers.collect(parts)


def densities(table: pd.DataFrame) -> pd.DataFrame:
    """The mean density of each layer, by the number of iterations."""
    done, by = table[finished(table)], ("iterations", "layer_index")
    return answers.collect(answers.means(done, "density", "density", more=by))
