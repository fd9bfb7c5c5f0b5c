"""Were the baselines scored in the wrong mode? Train against eval mode (question 2)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from analysis.experiments.study import HASTY, PAPER, TABLE, TINY, Study, outcome, untrained
from analysis.questions import answers
from analysis.resumable import Point, Work, complete
from collapse.options import Mode, Pruning, Setup, Training

__all__ = ["PRESETS", "TABLE", "Config", "answer", "points", "run"]

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


def run(config: Config, work: Work | None = None) -> pd.DataFrame:
    """The ``outcomes`` table; rows of the larger network have no accuracy."""
    return complete(points(config), TABLE, work)


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """Each mode's critical compression and accuracy, and train minus eval, paired by seed."""
    runs = answers.runs(table)
    # A ranking has one critical compression, whatever it is pruned to.
    once = runs.drop_duplicates(["model", "dataset", "pruner", "mode", "seed"])
    once = once.drop(columns="compression").assign(epochs=0)
    critical, trained = "log10 critical compression", runs[runs["best_top1"].notna()]
    logarithm = once.assign(critical=answers.log10(once["critical_compression"]))
    return answers.collect(
        answers.means(logarithm, "critical", critical),
        answers.differences(logarithm, "critical", f"difference in {critical}", "mode", "eval"),
        answers.means(trained, "best_top1", "top-1 accuracy", "%"),
        answers.differences(
            trained, "best_top1", "difference in top-1 accuracy", "mode", "eval", "points"
        ),
        answers.distances(table, "mode", _MODES),
    )
