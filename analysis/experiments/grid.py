"""The same for several networks and datasets: a panel each (figure 6)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

import pandas as pd
import tyro

from analysis.experiments import accuracy
from analysis.experiments.networks import MODE, PRUNERS, powers
from analysis.points import Measured, Trained, Work, complete
from collapse.options import Mode, Setup, Training

TABLE = "accuracy"


@dataclass(frozen=True)
class Config:
    """Accuracy against compression for each model on each dataset.

    Attributes:
        models: in place of --model.
        datasets: in place of --dataset.
        pruners: random, magnitude, snip, grasp, synflow, or package.module:function.
        compressions: to prune to; without them powers of ten up to log10-max.
        log10_step: between two of these powers.
        log10_max: the highest of them, at most the network's maximal compression.
        mode: in which snip and grasp are scored; eval as in the published numbers.
        seeds: one run each, of everything random.
        critical: also find each pruner's critical compression (a minute for SynFlow, VGG-16).
    """

    setup: Setup = field(default_factory=lambda: Setup(""))
    training: Training = field(default_factory=Training)
    models: tuple[str, ...] = ("vgg11_bn", "vgg16_bn", "resnet18", "wideresnet18")
    datasets: tuple[str, ...] = ("cifar10", "cifar100", "tinyimagenet")
    pruners: tuple[str, ...] = PRUNERS
    compressions: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="X ...")] = None
    log10_step: float = 0.25
    log10_max: float = 3.0
    mode: Mode = MODE
    seeds: tuple[int, ...] = (0, 1, 2)
    critical: bool = False


PRESETS = {
    "smoke": Config(
        Setup("", init="xavier"),
        replace(accuracy.QUICK, epochs=1),
        models=("fc", "conv"),
        datasets=("digits",),
        pruners=("magnitude", "synflow"),
        compressions=(1.0, 100.0),
        seeds=(0, 1),
    ),
    "laptop": Config(
        Setup("", init="xavier"),
        replace(accuracy.QUICK, epochs=4),
        models=("fc", "conv"),
        datasets=("digits",),
        compressions=(1.0, 10**0.5, 10.0, 100.0, 1000.0),
    ),
    "paper": Config(),
}


def panels(config: Config) -> list[accuracy.Config]:
    """One of each dataset and model."""
    found = []
    for dataset in dict.fromkeys(config.datasets):
        for model in dict.fromkeys(config.models):
            panel = accuracy.Config(
                replace(config.setup, model=model, dataset=dataset),
                config.training,
                config.pruners,
                config.compressions,
                config.log10_step,
                config.mode,
                config.seeds,
            )
            if config.compressions is None:
                highest = min(10**config.log10_max * (1 + 1e-9), accuracy.maximum_of(panel))
                steps = powers(10, config.log10_step, highest)
                panel = replace(panel, compressions=steps)
            found.append(panel)
    return found


def points(config: Config) -> list[Trained]:
    """Those of every panel."""
    return [point for panel in panels(config) for point in accuracy.points(panel)]


def run(config: Config, work: Work | None = None) -> pd.DataFrame:
    """The ``accuracy`` table of all panels."""
    critical: list[Measured] = []
    if config.critical:
        critical = [point for panel in panels(config) for point in accuracy.critical_points(panel)]
    table = complete(points(config), TABLE, work)
    return accuracy.beside(complete(critical, "critical", work), table) if critical else table
