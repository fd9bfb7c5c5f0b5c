"""What does each pruner cost, beside one epoch of training? (question 3)"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.questions import answers, finished
from collapse import tables

if TYPE_CHECKING:
    import pandas as pd

TABLE = tables.declare(
    "costs",
    *tables.SETTINGS,
    *("compression", "parameters", "samples", "seconds", "flops", "peak_bytes"),
    *("epoch_images", "epoch_seconds", "epoch_flops", "finished"),
)
# What is given as a share of an epoch's.
_SHARES = {"time": "seconds", "operations": "flops", "samples": "samples"}


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """Time, operations, samples and memory, measured once."""
    done = table[finished(table)]
    found = []
    for place in range(len(done)):
        one = done.iloc[[place]]
        for name, column in _SHARES.items():
            epoch = one["epoch_images" if name == "samples" else f"epoch_{column}"]
            share = one.assign(share=one[column].astype(float) / epoch.astype(float))
            found += answers.means(share, "share", f"{name}, share of an epoch")
        found += answers.means(one, "peak_bytes", "peak memory", "bytes")
    return answers.collect(found)
