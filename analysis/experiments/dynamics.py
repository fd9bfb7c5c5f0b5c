"""How training makes magnitude a conserved score, epoch by epoch (figure 5b)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd

from analysis.experiments.accuracy import QUICK
from analysis.resumable import Trained, Work, complete
from collapse.options import Pruning, Rewinding, Setup, Training
from collapse.runs import Experiment, Run

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
    """One of each seed."""
    found = []
    for seed in dict.fromkeys(config.seeds):
        experiment = Experiment(
            config.setup,
            Pruning(pruner="magnitude", seed=seed),
            config.training,
            Rewinding(levels=0),
        )
        row = experiment.row()
        about = f"{config.setup.model} on {config.setup.dataset}, seed {seed}"
        found.append(Trained(experiment, row, about, partial(_rows, row)))
    return found


def run(config: Config, work: Work | None = None) -> pd.DataFrame:
    """The ``score_dynamics`` table of the dense network's training."""
    return complete(points(config), TABLE, work)


def _rows(row: dict[str, Any], run: Run) -> pd.DataFrame:
    return run.table("score_dynamics").assign(**row, run=run.name)
