"""Which units scores choose by data and which by chance. (experiment 2)"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.questions import answers, finished
from collapse import tables

if TYPE_CHECKING:
    import pandas as pd

TABLE = tables.declare(
    "features",
    *tables.SETTINGS,
    *("compression", "width", "layer", "layer_index", "side", "kept", "excess", "finished"),
)


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """The mean excess over seeds, by layer, side and width."""
    done = table[finished(table)]
    more = ("layer_index", "side", "width")
    return answers.collect(answers.means(done, "excess", "excess", more=more))
