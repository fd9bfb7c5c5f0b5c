"""Does the pruner matter at compressions that anyone uses? (question 5)"""

from __future__ import annotations

import pandas as pd

from analysis.questions import answers
from analysis.questions.outcomes import TABLE, runs

__all__ = ["TABLE", "answer"]


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """Differences in accuracy from SynFlow and from the dense network, paired by seed."""
    every, accuracy = runs(table).assign(mode=None), "top-1 accuracy"
    pairs = answers.paired(every[every["compression"] > 1], "best_top1", "pruner", "synflow")
    dense = answers.from_dense(every, "best_top1")
    difference = f"difference in {accuracy}"
    return answers.collect(
        answers.means(every, "best_top1", accuracy, "%"),
        answers.differences(pairs, difference, "pruner", "synflow", "points"),
        answers.differences(dense, difference, "pruner", "dense", "points"),
    )
