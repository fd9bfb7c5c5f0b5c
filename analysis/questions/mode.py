"""Were the baselines scored in the wrong mode? (question 2)"""

from __future__ import annotations

import pandas as pd

from analysis.questions import answers, finished
from analysis.questions.outcomes import TABLE, compared, runs

__all__ = ["MODES", "TABLE", "answer", "densities"]

MODES = ("train", "eval", "warm")


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """Each mode's critical compression and accuracy, and what they are above eval, by seed."""
    every = runs(table)
    # A ranking has one critical compression, whatever it is pruned to.
    once = every.drop_duplicates(["model", "dataset", "pruner", "mode", "seed"])
    return compared(once, every, table, "mode", ("train", "eval"), "eval")


def densities(table: pd.DataFrame) -> pd.DataFrame:
    """The mean density of each layer in either mode."""
    done = table[finished(table)]
    return answers.collect(answers.means(done, "density", "density", more=("layer_index",)))
