"""``python -m collapse.imp``: iterative magnitude pruning with rewinding and score dynamics."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import tyro

from collapse import cli
from collapse.errors import RequestError
from collapse.options import Execution, File, Pruning, Rewinding, Setup, Training


@dataclass(frozen=True)
class Config:
    """Find a ticket by iterative magnitude pruning (or any other score), and train it.

    Every epoch is saved in a folder under --runs, named by the hash of these settings: the same
    command goes on from there after an interruption, and repeats nothing that is done.

    Attributes:
        compression: of the ticket, total / kept, from 1 to parameters / layers.
        out: write the training table (.parquet, .csv, .json).
        dynamics: write the score dynamics: layer means and their fit, by epoch.
        conserved: write each unit's conserved quantity and its drift, by epoch.
        layers: write each level's per-layer densities.
        plot: draw the dense level's mean squared weights against inverse layer size, by epoch.
    """

    setup: Setup
    training: Training
    rewinding: Rewinding
    execution: Execution
    compression: Annotated[float, tyro.conf.arg(metavar="X")]
    pruning: Pruning = field(default_factory=lambda: Pruning(pruner="magnitude"))
    out: File = None
    dynamics: File = None
    conserved: File = None
    layers: File = None
    plot: File = None


def main(config: Config) -> int:
    """Run the request."""
    if config.rewinding.levels < 1:
        raise RequestError(
            f"--levels: expected at least 1, got {config.rewinding.levels}; to prune at "
            "initialisation use python -m collapse.train"
        )
    config.setup.check()
    config.pruning.check()
    outputs = cli.Outputs(
        training=config.out,
        score_dynamics=config.dynamics,
        conserved_quantity=config.conserved,
        layers=config.layers,
        plot=config.plot,
    )

    from collapse.runs import Experiment
    from collapse.runs.report import run_and_report

    experiment = Experiment(
        config.setup, config.pruning, config.training, config.rewinding, config.compression
    )
    return run_and_report(experiment, config.execution, outputs)


run = partial(cli.run, Config, main, prog="python -m collapse.imp")
