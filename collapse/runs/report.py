"""Performing a run for a command: progress, the tables that were asked for, and its levels."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from collapse import cli, plots, tables
from collapse.imp import State
from collapse.options import Execution
from collapse.problem import check_mode, choose_device
from collapse.runs.execution import perform
from collapse.runs.experiment import Experiment
from collapse.runs.folder import Run


def run_and_report(experiment: Experiment, execution: Execution, outputs: cli.Outputs) -> int:
    """Perform the run with a progress bar, write the tables asked for, print the levels."""
    check_mode(experiment.pruning.mode, experiment.pruning.pruner)
    with cli.progress(experiment.epochs(), execution.quiet) as update:

        def report(state: State) -> None:
            last = state.rows["training"][-1]
            text = f"level {state.level}, epoch {state.epoch}: top-1 {last['top1']:.1f} %"
            update(text, state.trained)

        run = perform(experiment, execution, on_boundary=report)

    def draw(path: Path) -> None:
        plots.save(plots.score_dynamics(contract(run, experiment, "score_dynamics")), path)

    outputs.hand("plot", draw)
    for table in (name for name in outputs.asked if name != "plot"):
        frame = contract(run, experiment, table)
        outputs.write(table, frame, choose_device(experiment.setup.device))
    _print(run, experiment)
    return 0


def contract(run: Run, experiment: Experiment, table: str) -> pd.DataFrame:
    """One of a run's tables with the columns of the contract first."""
    frame = run.table(table)
    frame = frame.assign(**{k: v for k, v in experiment.row().items() if k not in frame.columns})
    first = [column for column in tables.COLUMNS[table] if column in frame.columns]
    return frame[[*first, *(column for column in frame.columns if column not in first)]]


def _print(run: Run, experiment: Experiment) -> None:
    setup, pruning = experiment.setup, experiment.pruning
    rows = cli.rows_of(run.table("levels"))
    cli.print_table(
        f"{setup.model} on {setup.dataset}, {pruning.pruner}, seed {pruning.seed}: {run.folder}",
        [row | {"collapsed_layers": int(row["collapsed_layers"] or 0)} for row in rows],
        {
            "level": "{level:d}",
            "compression": "{compression:n}",
            "kept": "{kept:,}",
            "collapsed": "{collapsed_layers:d}",
            "top-1 %": "{top1:.2f}",
            "best %": "{best_top1:.2f}",
            "loss": "{loss:.4f}",
            "first to collapse": "{first_collapsed_layer}",
            "critical": "{critical_compression:n}",
        },
        run.notes(),
        spare=("kept", "loss", "best %"),
    )
