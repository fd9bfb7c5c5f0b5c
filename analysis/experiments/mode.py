"""Were the baselines scored in the wrong mode? Train, eval and warmed-up eval (question 2)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from analysis.experiments.study import HASTY, PAPER, TINY, Study, outcome, untrained
from analysis.questions.outcomes import TABLE
from analysis.resumable import Point, runner
from collapse.errors import RequestError
from collapse.options import Mode, Pruning, Setup, Training


@dataclass(frozen=True)
class Config(Study):
    """Each mode: densities, critical compression, and accuracy after training.

    Attributes:
        modes: in which the pruners score; warm is eval with statistics of the scoring batches.
        larger: a network that is pruned to the highest compression and not trained; '' for none.
        larger_dataset: whose images it is scored on.
        larger_seeds: of it.
    """

    pruners: tuple[str, ...] = ("snip", "grasp")
    modes: tuple[Mode, ...] = ("train", "eval", "warm")
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
    if not config.modes:
        raise RequestError("--modes: expected at least one of train, eval, warm, got none")
    found: list[Point] = []
    for seed, compression, pruner in config.each():
        for mode in config.modes:
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
        for mode in config.modes
    ]


run = runner(points, TABLE)
