"""How many of the kept weights are alive, and is accuracy a matter of those? (question 9)

Effective compression counts only weights on an input→output path (Vysogorets & Kempe 2023).
"""

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
    """Effective against nominal compression of every pruner, and accuracy against both."""

    compressions: tuple[float, ...] = (2.0, 4.0, 10.0, 100.0, 1000.0)


PRESETS = {
    "smoke": Config(TINY, HASTY, ("magnitude", "synflow"), (10.0, 1000.0), seeds=(0, 1, 2)),
    "laptop": Config(),
    "paper": Config(PAPER, Training(), compressions=(2.0, 10.0, 100.0, 1000.0, 10_000.0)),
}


def points(config: Config) -> list[Trained]:
    """One of each seed, compression and pruner, and the dense network once a seed."""
    return [*config.dense(), *(outcome(config.experiment(*one)) for one in config.each())]


def run(config: Config, work: Work | None = None) -> pd.DataFrame:
    """The ``outcomes`` table."""
    return complete(points(config), TABLE, work)


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """Effective compression in units of the nominal one, and accuracy, of each pruner."""
    runs = answers.runs(table)
    runs = runs[runs["compression"] > 1]
    return answers.collect(
        answers.means(runs, "effective_share", "effective / nominal compression", ""),
        answers.means(runs, "best_top1", "top-1 accuracy", "%"),
    )
