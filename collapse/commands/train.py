"""``python -m collapse.train``: prune at initialisation, then train."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from collapse import cli
from collapse.commands.imp import run_and_report
from collapse.options import Control, Execution, Pruning, Rewinding, Setup, Training
from collapse.runs import Experiment

_FILE = tyro.conf.arg(metavar="FILE")


@dataclass(frozen=True)
class Config:
    """Prune a network at initialisation and train it; whatever is left out is the paper's.

    Every epoch is saved in a folder under --runs, named by the hash of these settings: the same
    command goes on from there after an interruption, and repeats nothing that is done.

    Attributes:
        compression: total / kept, from 1 (nothing is pruned) to parameters / layers.
        control: in the ticket's place, train its mask shuffled within each layer, its mask with
            weights drawn anew (reinitialised), or the mask of the lowest scores (inverted).
        out: write the training table (.parquet, .csv, .json).
        dynamics: write the score dynamics: layer means and their fit, by epoch.
        layers: write the per-layer densities.
    """

    setup: Setup
    training: Training
    execution: Execution
    pruning: Pruning = field(default_factory=Pruning)
    compression: Annotated[float, tyro.conf.arg(metavar="X")] = 1.0
    control: Annotated[Control | None, tyro.conf.arg(metavar="shuffled|reinitialised|inverted")] = (
        None
    )
    out: Annotated[Path | None, _FILE] = None
    dynamics: Annotated[Path | None, _FILE] = None
    layers: Annotated[Path | None, _FILE] = None


def main(config: Config) -> int:
    """Run the request."""
    rounds = Rewinding(levels=0)
    experiment = Experiment(
        config.setup,
        config.pruning,
        config.training,
        rounds,
        config.compression,
        config.control,
    )
    files = {
        "training": config.out,
        "score_dynamics": config.dynamics,
        "layers": config.layers,
    }
    return run_and_report(experiment, config.execution, files)


def run() -> None:
    """Entry point."""
    cli.run(Config, main, "python -m collapse.train")
