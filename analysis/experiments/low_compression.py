"""Does the pruner matter at compressions that anyone uses? (question 5)"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.experiments.study import HASTY, PAPER, TABLE, TINY, Study, outcome
from analysis.questions import answers
from analysis.resumable import Trained, Work, complete
from collapse.options import Training

__all__ = ["PRESETS", "TABLE", "Config", "answer", "points", "run"]


@dataclass(frozen=True)
class Config(Study):
    """Accuracy at low compression, every pruner against SynFlow and the dense network."""

    compressions: tuple[float, ...] = (2.0, 4.0, 10.0)
    seeds: tuple[int, ...] = tuple(range(8))


PRESETS = {
    "smoke": Config(TINY, HASTY, ("magnitude", "synflow"), (2.0, 10.0), seeds=(0, 1, 2)),
    "laptop": Config(),
    "paper": Config(PAPER, Training(), seeds=(0, 1, 2, 3, 4)),
}


def points(config: Config) -> list[Trained]:
    """One of each seed, compression and pruner, and the dense network once a seed."""
    return [*config.dense(), *(outcome(config.experiment(*one)) for one in config.each())]


def run(config: Config, work: Work | None = None) -> pd.DataFrame:
    """The ``outcomes`` table."""
    return complete(points(config), TABLE, work)


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """Differences in accuracy from SynFlow and from the dense network, paired by seed."""
    runs = answers.runs(table)
    pruned = runs[runs["compression"] > 1].assign(mode=None)
    return answers.collect(
        answers.means(runs.assign(mode=None), "best_top1", "top-1 accuracy", "%"),
        answers.differences(
            pruned, "best_top1", "difference in top-1 accuracy", "pruner", "synflow", "points"
        ),
        answers.against_dense(runs, "best_top1", "difference in top-1 accuracy", "points"),
    )
