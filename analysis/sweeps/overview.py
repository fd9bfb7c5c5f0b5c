"""How far the runs of a sweep are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from collapse import cli, tables
from collapse.runs import Experiment


def overview(experiments: Sequence[Experiment], runs: Path) -> pd.DataFrame:
    """One row a run: its settings, ``state, level, epoch, epochs, top1, error``."""
    rows: list[dict[str, object]] = []
    for experiment in experiments:
        rows.append(
            {
                **experiment.row(),
                "compression": experiment.compression,
                "levels": experiment.rewinding.levels,
                "epochs": experiment.settings().epochs,
                **experiment.run(runs).status(),
            }
        )
    return pd.DataFrame(rows, columns=None if rows else list(tables.COLUMNS["status"]))


def show(table: pd.DataFrame) -> None:
    """Print it: the columns that differ between runs, and how far each is."""
    counts = table["state"].value_counts()
    title = ", ".join(f"{count} {state}" for state, count in counts.items()) or "nothing to do"
    settings = ("model", "dataset", "pruner", "iterations", "schedule", "scope", "mode")
    varied = [name for name in settings if table[name].nunique(dropna=False) > 1]
    columns = [*varied, "compression", "levels", "seed", "run", "state", "level", "epoch", "top1"]
    forms = {"top1": "{top1:.2f}", "compression": "{compression:g}"}
    cli.print_table(
        f"{len(table)} runs: {title}",
        cli.rows_of(table),
        {name: forms.get(name, f"{{{name}}}") for name in [*columns, "error"]},
    )
