"""``python -m collapse.train``: prune at initialisation, then train."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import tyro

from collapse import cli
from collapse.errors import RequestError
from collapse.options import Control, Execution, File, Pruning, Rewinding, Setup, Training, shown


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
    control: Annotated[
        Control | None, shown("shuffled|reinitialised|inverted", "none, the ticket itself")
    ] = None
    out: File = None
    dynamics: File = None
    layers: File = None


def main(config: Config) -> int:
    """Run the request."""
    if config.control is not None and config.compression == 1:
        raise RequestError(
            f"--control {config.control}: expected a --compression above 1, got 1, which prunes "
            "nothing"
        )
    config.setup.check()
    config.pruning.check()
    outputs = cli.Outputs(training=config.out, score_dynamics=config.dynamics, layers=config.layers)

    from collapse.runs import Experiment
    from collapse.runs.report import run_and_report

    experiment = Experiment(
        config.setup,
        config.pruning,
        config.training,
        Rewinding(levels=0),
        config.compression,
        config.control,
    )
    return run_and_report(experiment, config.execution, outputs)


run = partial(cli.run, Config, main, prog="python -m collapse.train")
