"""Accuracy against compression for several networks and datasets, a panel each (figure 6)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from analysis.experiments import accuracy
from analysis.experiments.shared import MODE, PRUNERS
from analysis.questions.accuracy import TABLE
from analysis.resumable import Measured, Resources, Trained, complete
from collapse.errors import RequestError
from collapse.options import Mode, Setup, Training

if TYPE_CHECKING:
    import pandas as pd

# Several take the place of one.
_NOBODY = Setup("", dataset="")


@dataclass(frozen=True)
class Config:
    """Accuracy against compression for each model on each dataset.

    Attributes:
        models: each of them (in place of --model).
        datasets: each of them (in place of --dataset).
        pruners: random, magnitude, snip, grasp, synflow, or package.module:function.
        compressions: to prune to.
        mode: in which snip and grasp are scored; eval as in the published numbers.
        seeds: one run each, of everything random.
        critical: also find each pruner's critical compression (a minute for SynFlow, VGG-16).
    """

    setup: Setup = _NOBODY
    training: Training = field(default_factory=Training)
    models: tuple[str, ...] = ("vgg11_bn", "vgg16_bn", "resnet18", "wideresnet18")
    datasets: tuple[str, ...] = ("cifar10", "cifar100", "tinyimagenet")
    pruners: tuple[str, ...] = PRUNERS
    compressions: tuple[float, ...] = tuple(10 ** (i / 4) for i in range(13))
    mode: Mode = MODE
    seeds: tuple[int, ...] = (0, 1, 2)
    critical: bool = False


# One of its panels has the runs of figure 1.
_SMALL = Config(
    replace(_NOBODY, init="xavier"),
    accuracy.QUICK,
    models=("fc", "conv"),
    datasets=("digits",),
    compressions=accuracy.DECADES,
)
PRESETS = {
    "smoke": replace(
        _SMALL,
        training=replace(accuracy.QUICK, epochs=1),
        pruners=("magnitude", "synflow"),
        compressions=(1.0, 100.0),
        seeds=(0, 1),
    ),
    "laptop": _SMALL,
    "paper": Config(),
}


def panels(config: Config) -> list[accuracy.Config]:
    """One of each dataset and model.

    Raises:
        RequestError: no model or dataset, or one given as if it were the only one.
    """
    for one, name in ((config.setup.model, "model"), (config.setup.dataset, "dataset")):
        if one:
            raise RequestError(f"--{name} {one}: expected --{name}s {one}, because a grid has many")
        if not getattr(config, f"{name}s"):
            raise RequestError(f"--{name}s: expected at least one, got none")
    return [
        accuracy.Config(
            replace(config.setup, model=model, dataset=dataset),
            config.training,
            config.pruners,
            config.compressions,
            mode=config.mode,
            seeds=config.seeds,
        )
        for dataset in dict.fromkeys(config.datasets)
        for model in dict.fromkeys(config.models)
    ]


def points(config: Config) -> list[Trained]:
    """Those of every panel."""
    return [point for panel in panels(config) for point in accuracy.points(panel)]


def run(config: Config, resources: Resources | None = None) -> pd.DataFrame:
    """The ``accuracy`` table of all panels."""
    critical: list[Measured] = []
    if config.critical:
        critical = [point for panel in panels(config) for point in accuracy.critical_points(panel)]
    table = complete(points(config), TABLE, resources)
    if critical:
        return accuracy.beside(complete(critical, "critical", resources), table)
    # What a run's last ranking would collapse at is no pruner's critical compression.
    return table.assign(critical_compression=None)
