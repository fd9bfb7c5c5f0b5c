"""Does the pruner matter at compressions that anyone uses? (question 5)"""

from __future__ import annotations

import pandas as pd

from analysis.questions import answers
from analysis.questions.outcomes import TABLE, runs

__all__ = ["TABLE", "answer"]


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """Differences in accuracy from SynFlow and from the dense network, paired by seed."""
    every = runs(table).assign(mode=None)
    return answers.collect(
        answers.accuracy(every),
        answers.accuracy_differences(every[every["compression"] > 1], "pruner", "synflow"),
        answers.accuracy_differences(every, "pruner", "dense"),
    )
