"""Were the baselines scored in the wrong mode? Train against eval mode (question 2)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from analysis.experiments.study import HASTY, PAPER, TINY, Study, outcome, untrained
from analysis.questions.outcomes import TABLE
from analysis.resumable import Point, runner
from collapse.options import Mode, Pruning, Setup, Training

_MODES: tuple[Mode, ...] = ("train", "eval")


@dataclass(frozen=True)
class Config(Study):
    """Both modes: densities, critical compression, and accuracy after training.

    Attributes:
        larger: a network that is pruned to the highest compression and not trained; '' for none.
        larger_dataset: whose images it is scored on.
        larger_seeds: of it.
    """

    pruners: tuple[str, ...] = ("snip", "grasp")
    larger: str = "vgg16_bn"
    larger_dataset: str = "cifar100"
    larger_seeds: tuple[int, ...] = (0, 1, 2)


PRESETS = {
    "smoke": Config(TINY, HASTY, compressions=(10.0,), seeds=(0, 1, 2), larger=""),
    "laptop": Config(),
    "paper": Config(PAPER, Training(), compressions=(10.0, 100.0, 1000.0), larger=""),
}


def points(config: Config) -> list[Point]:
    """One of each seed, compression, pruner and mode."""
    found: list[Point] = []
    for seed, compression, pruner in config.each():
        for mode in _MODES:
            options = Pruning(pruner=pruner, mode=mode, seed=seed)
            found.append(outcome(config.experiment(seed, compression, pruner, pruning=options)))
    if config.larger:
        setup = replace(config.setup, model=config.larger, dataset=config.larger_dataset)
        found += _larger(config, setup)
    return found


def _larger(config: Config, setup: Setup) -> list[Point]:
    return [
        untrained(setup, Pruning(pruner=pruner, mode=mode, seed=seed), max(config.compressions))
        for seed in config.larger_seeds
        for pruner in config.pruners
        for mode in _MODES
    ]


run = runner(points, TABLE)
