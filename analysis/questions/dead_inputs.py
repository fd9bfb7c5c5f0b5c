"""Should pruning ignore the data where some inputs are always zero? (question 7)"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.questions import answers, finished
from collapse import tables

if TYPE_CHECKING:
    import pandas as pd

TABLE = tables.declare(
    "dead_inputs",
    *tables.SETTINGS,
    *("compression", "epochs", "train_images", "layer", "parameters", "kept"),
    *("dead_parameters", "dead_kept", "kept_total", "best_top1", "run", "finished"),
)


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """Share of the kept weights of the first layer that are on dead inputs, and accuracy."""
    done = table[finished(table)].assign(mode=None)
    kept = done["kept"].astype(float)
    done = done.assign(share=100 * done["dead_kept"].astype(float) / kept.where(kept > 0))
    return answers.collect(
        answers.means(done, "share", "first-layer weights kept on dead inputs", "%"),
        answers.accuracy(done),
        answers.accuracy_differences(done, "pruner", "synflow"),
    )
