"""Magnitude and SynFlow of trained against random weights (question 6)."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.experiments.study import HASTY, PAPER, TINY, Study, outcome, untrained
from analysis.questions.outcomes import TABLE
from analysis.resumable import Point, runner
from collapse.options import Pruning, Rewinding, Training


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


run = runner(points, TABLE)
