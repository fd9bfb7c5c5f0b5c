"""Accuracy against compression: mean and range over runs (figures 1, 5a and 6)."""

from __future__ import annotations

from collections.abc import Iterable
from math import nan
from typing import TYPE_CHECKING

from analysis.questions import answers, finished
from analysis.questions.statistics import Estimate
from collapse import tables

if TYPE_CHECKING:
    import pandas as pd

TABLE = tables.declare(
    "accuracy",
    *tables.SETTINGS,
    *("compression", "levels", "epochs", "train_images", "parameters", "layers"),
    *("maximal_compression", "critical_compression", "collapsed_layers", "top1", "best_top1"),
    *("run", "finished"),
)


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """The mean of each pruner's best accuracies; ``low`` and ``high`` are the range over runs."""
    done = table[finished(table)]
    return answers.collect(answers.means(done, "best_top1", "top-1 accuracy", "%", estimate=_range))


def _range(values: Iterable[float]) -> Estimate:
    import numpy as np

    runs = np.asarray(list(values), float)
    low, high = float(runs.min()), float(runs.max())
    return Estimate(float(runs.mean()), low, high, nan, len(runs))


def critical(table: pd.DataFrame) -> dict[str, float]:
    """The median over seeds of each pruner's critical compression, where it is one a seed."""
    found = {}
    known = table[finished(table)].dropna(subset=["critical_compression"])
    for pruner, rows in known.groupby("pruner", sort=False):
        seeds = rows.groupby("seed")["critical_compression"]
        if (seeds.nunique() == 1).all():
            found[str(pruner)] = float(seeds.first().median())
    return found
