"""How training makes magnitude a conserved score, epoch by epoch (figure 5b)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from analysis.experiments.accuracy import QUICK
from analysis.experiments.shared import trained
from analysis.resumable import Trained, runner
from collapse import runs
from collapse.options import Pruning, Rewinding, Setup, Training

TABLE = "score_dynamics"


@dataclass(frozen=True)
class Config:
    """Mean squared weight of each layer while the dense network is trained.

    Attributes:
        seeds: one run each, of everything random.
    """

    setup: Setup
    training: Training = field(default_factory=Training)
    seeds: tuple[int, ...] = (0,)


PRESETS = {
    "smoke": Config(Setup("fc", init="xavier"), replace(QUICK, lr=0.05)),
    "laptop": Config(
        Setup("fc", init="xavier"), Training(epochs=20, lr=0.05, lr_drops=()), seeds=(0, 1, 2)
    ),
    "paper": Config(
        Setup("vgg19", dataset="cifar10", init="xavier"),
        Training(epochs=100, lr=0.001, lr_drops=()),
    ),
}


def points(config: Config) -> list[Trained]:
    """The dense network's training, one of each seed."""
    found = []
    for seed in dict.fromkeys(config.seeds):
        options = Pruning(pruner="magnitude", seed=seed)
        experiment = runs.Experiment(config.setup, options, config.training, Rewinding(levels=0))
        found.append(trained(TABLE, experiment, lambda run: run.table(TABLE)))
    return found


run = runner(points, TABLE)
