"""How many of the kept weights are alive, and is accuracy a matter of those? (question 9)"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.questions import answers
from analysis.questions.outcomes import TABLE, runs

__all__ = ["TABLE", "answer", "curves"]


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """Effective compression in units of the nominal one, and accuracy, of each pruner."""
    every = runs(table)
    pruned = every[every["compression"] > 1]
    return answers.collect(
        answers.means(pruned, "effective_share", "effective / nominal compression"),
        answers.accuracy(pruned),
    )


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """On a logarithmic scale: both compressions, and the share of runs with nothing alive.

    The effective compression is that of groups in which every run has a living weight.
    """
    every = runs(table)
    effective = every["effective_compression"].astype(float)
    pruned = every.assign(
        share=answers.log10(every["effective_share"]),
        effective=answers.log10(effective),
        dead=np.isinf(effective),
    )[every["compression"] > 1]
    return answers.collect(
        answers.means(pruned, "share", "log10 effective / nominal compression"),
        answers.means(pruned, "dead", "runs with nothing alive"),
        *(
            answers.means(rows, "effective", "log10 effective compression")
            for rows in answers.groups(pruned)
            if not rows["dead"].any()
        ),
    )
