"""Does it matter whether trained or random weights are pruned? (question 6)"""

from __future__ import annotations

import pandas as pd

from analysis.questions.outcomes import TABLE, compared, runs

__all__ = ["TABLE", "WEIGHTS", "answer"]

WEIGHTS = ("random", "trained")


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """Critical compression and accuracy of both, and trained minus random, paired by seed."""
    every = runs(table).drop(columns="levels")
    alone = every[every["best_top1"].isna()]
    return compared(alone, every, table[table["epochs"] == 0], "weights", WEIGHTS, "random")
