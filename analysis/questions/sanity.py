"""Which weights, or how many in each layer: what carries a mask's accuracy? (question 8)"""

from __future__ import annotations

import pandas as pd

from analysis.questions import answers
from analysis.questions.outcomes import TABLE, runs

__all__ = ["TABLE", "answer"]


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each mask, and what each control changes in it, paired by seed."""
    every = runs(table)
    changes = answers.accuracy_differences(every, "control", None)
    return answers.collect(answers.accuracy(every), changes)
