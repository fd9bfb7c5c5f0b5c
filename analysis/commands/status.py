"""``python -m analysis status SPEC.toml``: how far the runs of a sweep are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from analysis.sweeps import spec, sweeping
from collapse import cli, tables
from collapse.runs import Experiment


@dataclass(frozen=True)
class Config:
    """Show each run of a sweep: done, running, paused, failed or waiting, also while it runs.

    Attributes:
        spec: the sweep's TOML file.
        runs: the folder of run folders.
        data_root: where the data lies ($COLLAPSE_DATA or ./data without it).
        out: write it as a table (.parquet, .csv, .json).
    """

    spec: tyro.conf.Positional[Path]
    runs: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs")
    data_root: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None


def main(config: Config) -> None:
    """Run the request."""
    tables.check_path(config.out)
    experiments = spec.read(config.spec, data_root=config.data_root)
    runs = sweeping.distinct(experiments, config.runs)
    table = overview(list(runs.values()), config.runs)
    if config.out is not None:
        tables.write(table, config.out, "status")
    show(table)


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
    printed = Table(box=box.SIMPLE_HEAD, title=f"{len(table)} runs: {title}", title_justify="left")
    settings = ("model", "dataset", "pruner", "iterations", "schedule", "scope", "mode")
    varied = [name for name in settings if table[name].nunique(dropna=False) > 1]
    columns = [*varied, "compression", "levels", "seed", "run", "state", "level", "epoch", "top1"]
    for name in [*columns, "error"]:
        printed.add_column(name, overflow="fold")
    for row in table.astype(object).where(table.notna(), None).to_dict("records"):
        printed.add_row(*(_cell(name, row[name]) for name in columns), row["error"] or "")
    Console(width=cli.table_width()).print(printed)


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}" if name == "top1" else f"{value:g}"
    return str(value)


def run(arguments: Sequence[str]) -> None:
    """Entry point."""
    cli.run(Config, main, "python -m analysis status", arguments)
