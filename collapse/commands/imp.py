"""``python -m collapse.imp``: train, prune, rewind, level by level; tickets and score dynamics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from collapse import cli, tables
from collapse.errors import RequestError
from collapse.files import PLOT_SUFFIXES, check_distinct, check_writable
from collapse.imp import State
from collapse.options import Execution, Pruning, Rewinding, Setup, Training
from collapse.problem import choose_device
from collapse.runs import Experiment, Run, perform

_FILE = tyro.conf.arg(metavar="FILE")


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
    out: Annotated[Path | None, _FILE] = None
    dynamics: Annotated[Path | None, _FILE] = None
    conserved: Annotated[Path | None, _FILE] = None
    layers: Annotated[Path | None, _FILE] = None
    plot: Annotated[Path | None, _FILE] = None


def main(config: Config) -> int:
    """Run the request."""
    if config.rewinding.levels < 1:
        raise RequestError(
            f"--levels: expected at least 1, got {config.rewinding.levels}; to prune at "
            "initialisation use python -m collapse.train"
        )
    experiment = Experiment(
        config.setup, config.pruning, config.training, config.rewinding, config.compression
    )
    files = {
        "training": config.out,
        "score_dynamics": config.dynamics,
        "conserved_quantity": config.conserved,
        "layers": config.layers,
    }
    return run_and_report(experiment, config.execution, files, config.plot)


def run_and_report(
    experiment: Experiment,
    execution: Execution,
    files: Mapping[str, Path | None],
    plot: Path | None = None,
) -> int:
    """Perform the run with a progress bar, write the tables asked for, print the levels."""
    check_distinct(*files.values(), plot)
    for path in files.values():
        tables.check_path(path)
    check_writable(plot, PLOT_SUFFIXES)
    with cli.progress(experiment.epochs(), execution.quiet) as update:

        def report(state: State) -> None:
            last = state.rows["training"][-1]
            text = f"level {state.level}, epoch {state.epoch}: top-1 {last['top1']:.1f} %"
            update(text, sum(row["split"] == "train" for row in state.rows["training"]))

        run = perform(experiment, execution, on_boundary=report)
    for table, path in files.items():
        if path is not None:
            device = str(choose_device(experiment.setup.device))
            tables.write(contract(run, experiment, table), path, table, device)
    if plot is not None:
        from collapse.plots import save, score_dynamics

        save(score_dynamics(contract(run, experiment, "score_dynamics")), plot)
    _print(run, experiment)
    return 0


def contract(run: Run, experiment: Experiment, table: str) -> pd.DataFrame:
    """One of a run's tables with the columns of the contract first."""
    frame = run.table(table)
    frame = frame.assign(**{k: v for k, v in experiment.row().items() if k not in frame.columns})
    first = [column for column in tables.COLUMNS[table] if column in frame.columns]
    return frame[[*first, *(column for column in frame.columns if column not in first)]]


def _print(run: Run, experiment: Experiment) -> None:
    setup = experiment.setup
    table = Table(
        title_justify="left",
        box=box.SIMPLE_HEAD,
        title=f"{setup.model} on {setup.dataset}, {experiment.pruning.pruner}, "
        f"seed {experiment.pruning.seed}: {run.folder}",
    )
    names = ("level", "compression", "kept", "collapsed", "top-1 %", "best %", "loss")
    for name in (*names, "first to collapse", "critical"):
        table.add_column(name, justify="left" if name == "first to collapse" else "right")
    levels = run.table("levels").astype(object)
    for row in levels.where(levels.notna(), None).to_dict("records"):
        table.add_row(*_cells(row))
    Console(width=cli.table_width()).print(table)


def _cells(row: Mapping[Any, Any]) -> list[str]:
    critical = row["critical_compression"]
    return [
        str(row["level"]),
        f"{row['compression']:,.6g}",
        f"{row['kept']:,}",
        str(int(row["collapsed_layers"] or 0)),
        f"{row['top1']:.2f}",
        f"{row['best_top1']:.2f}",
        f"{row['loss']:.4f}",
        row["first_collapsed_layer"] or "",
        "" if critical is None else f"{critical:,.6g}",
    ]


def run() -> None:
    """Entry point."""
    cli.run(Config, main, "python -m collapse.imp")
