"""Were the baselines scored in the wrong mode? (question 2)"""

from __future__ import annotations

import pandas as pd

from analysis.questions import answers, finished
from analysis.questions.outcomes import TABLE, runs

__all__ = ["MODES", "TABLE", "answer", "densities"]

MODES = ("train", "eval")


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """Each mode's critical compression and accuracy, and train minus eval, paired by seed."""
    every = runs(table)
    # A ranking has one critical compression, whatever it is pruned to.
    once = every.drop_duplicates(["model", "dataset", "pruner", "mode", "seed"])
    once = once.drop(columns="compression").assign(epochs=0)
    once = once.assign(critical=answers.log10(once["critical_compression"]))
    critical, trained = "log10 critical compression", every[every["best_top1"].notna()]
    accuracy, reference = "top-1 accuracy", ("mode", "eval")
    critical_pairs = answers.paired(once, "critical", *reference)
    pairs = answers.paired(trained, "best_top1", *reference)
    return answers.collect(
        answers.means(once, "critical", critical),
        answers.differences(critical_pairs, f"difference in {critical}", *reference),
        answers.means(trained, "best_top1", accuracy, "%"),
        answers.differences(pairs, f"difference in {accuracy}", *reference, "points"),
        answers.distances(table, "mode", MODES),
    )


def densities(table: pd.DataFrame) -> pd.DataFrame:
    """The mean density of each layer in either mode."""
    done = table[finished(table)]
    return answers.collect(answers.means(done, "density", "density", more=("layer_index",)))
