"""Does avoiding collapse keep accuracy? Test accuracy against compression (figure 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import pandas as pd
import tyro

from analysis.experiments.shared import (
    MODE,
    PRUNERS,
    given,
    key_of,
    needs_labels,
    network,
    powers,
    row_of,
)
from analysis.resumable import Measured, Trained, Work, complete
from collapse import masks as masking
from collapse.critical import frame_of, measure
from collapse.options import Mode, Pruning, Rewinding, Setup, Training
from collapse.runs import Experiment, Run

TABLE = "accuracy"
# Small enough to train a network in a second on one core, and it learns.
QUICK = Training(epochs=6, lr=0.01, train_batch_size=32, train_samples=400)


@dataclass(frozen=True)
class Config:
    """Prune at initialisation to each compression, train, test; and where each pruner collapses.

    Attributes:
        pruners: random, magnitude, snip, grasp, synflow, or package.module:function.
        compressions: to prune to; without them powers of ten up to the maximal compression.
        log10_step: between two of these powers.
        mode: in which snip and grasp are scored; eval as in the published numbers.
        seeds: one run each, of everything random.
    """

    setup: Setup
    training: Training = field(default_factory=Training)
    pruners: tuple[str, ...] = PRUNERS
    compressions: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="X ...")] = None
    log10_step: float = 0.25
    mode: Mode = MODE
    seeds: tuple[int, ...] = (0, 1, 2)


PRESETS = {
    "smoke": Config(
        Setup("fc", init="xavier"),
        replace(QUICK, epochs=1),
        pruners=("magnitude", "synflow"),
        log10_step=2,
        seeds=(0, 1),
    ),
    "laptop": Config(Setup("conv", init="xavier"), QUICK, log10_step=1),
    "paper": Config(Setup("vgg16_bn", dataset="cifar100")),
}


def points(config: Config) -> list[Trained]:
    """One of each seed, compression and pruner."""
    if config.compressions is None:
        compressions = powers(10, config.log10_step, maximum_of(config))
    else:
        compressions = given(config.compressions)
    found = []
    for seed in dict.fromkeys(config.seeds):
        for compression in compressions:
            for pruner in dict.fromkeys(config.pruners):
                options = Pruning(pruner=pruner, mode=config.mode, seed=seed)
                experiment = Experiment(
                    config.setup, options, config.training, Rewinding(levels=0), compression
                )
                found.append(trained(experiment))
    return found


def trained(experiment: Experiment) -> Trained:
    """One run as a point of an ``accuracy`` table."""
    setup, pruning = experiment.setup, experiment.pruning
    levels = experiment.rewinding.levels
    settings = experiment.settings()
    row = {
        **experiment.row(),
        "compression": experiment.compression,
        "levels": levels,
        "epochs": settings.epochs,
        "train_images": settings.train_samples or len(experiment.datasets()[0].labels),
    }
    about = f"{setup.model} {setup.dataset} {pruning.pruner} x{experiment.compression:,.4g}"
    if levels:
        about += f" in {levels} levels"
    return Trained(experiment, row, f"{about} seed {pruning.seed}", partial(_rows, row))


def _rows(row: dict[str, Any], run: Run) -> pd.DataFrame:
    """The ticket's accuracy: the best over epochs, as in the published numbers, and the last.

    The critical compression is that of the last ranking before the ticket.
    """
    ticket, layers = run.table("levels").iloc[-1], run.table("score_dynamics")
    sizes = layers["parameters"][: layers["layer"].nunique()]
    numbers = ("kept", "collapsed_layers", "critical_compression", "top1", "best_top1", "loss")
    return pd.DataFrame([{
        **row,
        "parameters": sizes.sum(),
        "layers": len(sizes),
        "maximal_compression": sizes.sum() / len(sizes),
        **{name: ticket[name] for name in numbers},
        "run": run.name,
    }])  # fmt: skip


def critical_points(config: Config) -> list[Measured]:
    """One of each seed and pruner, as rows of the ``critical`` table."""
    labelled = needs_labels(config.pruners)
    found = []
    for seed in dict.fromkeys(config.seeds):
        for pruner in dict.fromkeys(config.pruners):
            options = Pruning(pruner=pruner, mode=config.mode, seed=seed)
            found.append(
                Measured(
                    "critical",
                    {**key_of(config.setup, options), "effective": False},
                    row_of(config.setup, options),
                    f"critical compression of {pruner}, seed {seed}",
                    partial(_critical, config.setup, options, labelled),
                )
            )
    return found


def _critical(setup: Setup, options: Pruning, labelled: bool) -> pd.DataFrame:
    prepared = network(setup, options.seed, labelled)
    row, _ = measure(setup, prepared, options, effective=False)
    return frame_of([row])


def run(config: Config, work: Work | None = None) -> pd.DataFrame:
    """The ``accuracy`` table, with each pruner's critical compression beside its rows."""
    critical = complete(critical_points(config), "critical", work)
    return beside(critical, complete(points(config), TABLE, work))


_NETWORK = ("model", "dataset", "pruner", "seed")
_KNOWN = ("parameters", "layers", "maximal_compression", "critical_compression")


def beside(critical: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """An ``accuracy`` table with the columns that a ``critical`` one knows better."""
    known = critical[[*_NETWORK, *_KNOWN]]
    merged = table.drop(columns=list(_KNOWN)).merge(known, on=list(_NETWORK), how="left")
    return merged[list(table.columns)]


def maximum_of(config: Config) -> float:
    """``N / L`` of the network."""
    seeds: Sequence[int] = config.seeds or (0,)
    dense = masking.dense(network(config.setup, seeds[0], needs_labels(config.pruners)).model)
    return masking.total(dense) / len(dense)
