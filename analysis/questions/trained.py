"""Does it matter whether trained or random weights are pruned? (question 6)"""

from __future__ import annotations

import pandas as pd

from analysis.questions import answers
from analysis.questions.outcomes import TABLE, runs

__all__ = ["TABLE", "WEIGHTS", "answer"]

WEIGHTS = ("random", "trained")


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """Critical compression and accuracy of both, and trained minus random, paired by seed."""
    every = runs(table).drop(columns="levels")
    alone, trained = every[every["best_top1"].isna()], every[every["best_top1"].notna()]
    alone = alone.assign(critical=answers.log10(alone["critical_compression"]))
    alone = alone.drop(columns="compression")
    critical, accuracy = "log10 critical compression", "top-1 accuracy"
    reference = ("weights", "random")
    critical_pairs = answers.paired(alone, "critical", *reference)
    pairs = answers.paired(trained, "best_top1", *reference)
    return answers.collect(
        answers.means(alone, "critical", critical),
        answers.differences(critical_pairs, f"difference in {critical}", *reference),
        answers.means(trained, "best_top1", accuracy, "%"),
        answers.differences(pairs, f"difference in {accuracy}", *reference, "points"),
        answers.distances(table[table["epochs"] == 0], "weights", WEIGHTS),
    )
