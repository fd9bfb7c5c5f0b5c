"""Does the pruner matter at compressions that anyone uses? (question 5)"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.experiments.study import HASTY, PAPER, TINY, Study, outcome
from analysis.questions.outcomes import TABLE
from analysis.resumable import Trained, runner
from collapse.options import Training


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


run = runner(points, TABLE)
