"""How many of the kept weights are alive, and is accuracy a matter of those? (question 9)

Effective compression counts only weights on an input→output path (Vysogorets & Kempe 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.experiments.study import HASTY, PAPER, TINY, Study, outcome
from analysis.questions.outcomes import TABLE
from analysis.resumable import Trained, runner
from collapse.options import Training


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


run = runner(points, TABLE)
