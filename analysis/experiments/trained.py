"""Magnitude and SynFlow of trained against random weights (question 6)."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.experiments.study import HASTY, PAPER, TABLE, TINY, Study, outcome, untrained
from analysis.questions import answers
from analysis.resumable import Point, Work, complete
from collapse.options import Pruning, Rewinding, Training

__all__ = ["PRESETS", "TABLE", "Config", "answer", "points", "run"]


@dataclass(frozen=True)
class Config(Study):
    """Prune random weights, or trained ones that are then rewound to the same random weights.

    Either mask is trained from the same weights for as long. Critical compressions are those of
    both sets of weights, densities at the highest compression.
    """

    pruners: tuple[str, ...] = ("magnitude", "synflow")


PRESETS = {
    "smoke": Config(TINY, HASTY, compressions=(10.0,), seeds=(0, 1, 2)),
    "laptop": Config(),
    "paper": Config(PAPER, Training(), compressions=(10.0, 100.0, 1000.0)),
}


def points(config: Config) -> list[Point]:
    """Trainings of one of each seed, compression, pruner and weights; and prunings alone."""
    highest = max(config.compressions, default=1.0)
    found: list[Point] = []
    for seed, compression, pruner in config.each():
        found.append(outcome(config.experiment(seed, compression, pruner)))
        once = Rewinding(levels=1)
        found.append(outcome(config.experiment(seed, compression, pruner, rewinding=once)))
    for dense in config.dense():
        seed = dense.experiment.pruning.seed
        for pruner in dict.fromkeys(config.pruners):
            options = Pruning(pruner=pruner, mode=config.mode, seed=seed)
            found.append(untrained(config.setup, options, highest))
            found.append(untrained(config.setup, options, highest, after=dense))
    return found


def run(config: Config, work: Work | None = None) -> pd.DataFrame:
    """The ``outcomes`` table; prunings alone have no accuracy, and all critical compressions."""
    return complete(points(config), TABLE, work)


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """Critical compression and accuracy of both, and trained minus random, paired by seed."""
    runs = answers.runs(table).drop(columns="levels")
    alone, trained = runs[runs["best_top1"].isna()], runs[runs["best_top1"].notna()]
    alone = alone.assign(critical=answers.log10(alone["critical_compression"]))
    alone = alone.drop(columns="compression")
    critical = "log10 critical compression"
    return answers.collect(
        answers.means(alone, "critical", critical),
        answers.differences(alone, "critical", f"difference in {critical}", "weights", "random"),
        answers.means(trained, "best_top1", "top-1 accuracy", "%"),
        answers.differences(
            trained, "best_top1", "difference in top-1 accuracy", "weights", "random", "points"
        ),
        answers.distances(table[table["epochs"] == 0], "weights", ("random", "trained")),
    )
