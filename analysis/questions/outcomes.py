"""The ``outcomes`` table: what a pruning left in each layer, and what the network then reached."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

from analysis.questions import answers, finished
from collapse import tables

if TYPE_CHECKING:
    import pandas as pd

TABLE = tables.declare(
    "outcomes",
    *tables.SETTINGS,
    *("weights", "control", "compression", "levels", "epochs", "train_images", "layer"),
    *("layer_index", "parameters", "kept", "density", "effective_kept"),
    *("critical_compression", "top1", "best_top1", "run", "finished"),
)
# What tells one run from another.
RUN = (
    *tables.SETTINGS,
    *("weights", "control", "compression", "levels", "epochs", "train_images", "run"),
)


def runs(table: pd.DataFrame) -> pd.DataFrame:
    """The finished runs, a row each, with their compressions.

    Adds ``effective_compression`` (infinite where nothing is alive), ``effective_share`` (that in
    units of the nominal compression; missing where infinite) and ``collapsed_layers``.
    """
    found = table[finished(table)].groupby(list(RUN), dropna=False, sort=False).agg(
        parameters=("parameters", "sum"),
        kept_total=("kept", "sum"),
        alive=("effective_kept", "sum"),
        collapsed_layers=("kept", lambda kept: int((kept == 0).sum())),
        critical_compression=("critical_compression", "first"),
        best_top1=("best_top1", "first"),
    ).reset_index()  # fmt: skip
    total, alive = found["parameters"].astype(float), found["alive"].astype(float)
    found["effective_compression"] = (total / alive.where(alive > 0)).where(alive > 0, inf)
    share = found["kept_total"].astype(float) / alive.where(alive > 0)
    return found.assign(effective_share=share)


def compared(
    rankings: pd.DataFrame,
    trained: pd.DataFrame,
    masks: pd.DataFrame,
    by: str,
    values: Sequence[str],
    reference: str,
) -> pd.DataFrame:
    """Two variants of a pruning: critical compressions, accuracies, where weights are kept.

    Args:
        rankings: runs of which critical compressions are compared.
        trained: runs of which accuracies are, where there are any.
        masks: rows of a table of which layers are.
        by: the column in which the variants differ, by ``values``.
        reference: the one that is taken off the other.
    """
    log10 = answers.log10(rankings["critical_compression"])
    each = rankings.drop(columns="compression").assign(critical=log10)
    critical, done = "log10 critical compression", trained[trained["best_top1"].notna()]
    return answers.collect(
        answers.means(each, "critical", critical),
        answers.differences(each, "critical", critical, by, reference),
        answers.accuracy(done),
        answers.accuracy_differences(done, by, reference),
        answers.distances(masks, by, values),
    )
