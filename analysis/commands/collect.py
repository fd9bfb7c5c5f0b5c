"""``python -m analysis collect SPEC.toml``: one table of all runs of a sweep so far."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import tyro

from analysis.sweeps import spec
from collapse import cli, tables
from collapse.errors import RequestError
from collapse.runs import Experiment


@dataclass(frozen=True)
class Config:
    """Put the tables of all runs of a sweep together, also while it runs.

    Runs that have not finished give the rows that they have; their column `finished` is false.

    Attributes:
        spec: the sweep's TOML file.
        table: which of the runs' tables.
        runs: the folder of run folders.
        data_root: where the data lies ($COLLAPSE_DATA or ./data without it).
        out: write it there (.parquet, .csv, .json); without it CSV goes to the output.
    """

    spec: tyro.conf.Positional[Path]
    table: Literal["training", "score_dynamics", "layers", "levels", "conserved_quantity"] = (
        "training"
    )
    runs: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs")
    data_root: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None


def main(config: Config) -> None:
    """Run the request."""
    tables.check_path(config.out)
    experiments = spec.read(config.spec, data_root=config.data_root)
    frame = collected(experiments, config.runs, config.table)
    if config.out is None:
        frame.to_csv(sys.stdout, index=False)
        return
    tables.write(frame, config.out, config.table)
    finished = frame.groupby("run")["finished"].first() if len(frame) else pd.Series(dtype=bool)
    print(
        f"{len(frame):,} rows of {len(finished)} runs, {int(finished.sum())} of them finished: "
        f"{config.out}"
    )


def collected(experiments: Sequence[Experiment], runs: Path, table: str) -> pd.DataFrame:
    """The rows of every run that has any, with the settings of each point of the grid.

    Returns:
        The columns of the contract, then ``run, target_compression, levels, finished`` and the
        table's further ones. Points that share a run (nothing pruned) each have its rows.
    """
    parts = []
    for experiment in experiments:
        run = experiment.run(runs)
        with suppress(RequestError):  # nothing yet
            part = run.table(table)
            settings = {k: v for k, v in experiment.row().items() if k not in part.columns}
            parts.append(
                part.assign(
                    **settings,
                    run=run.name,
                    target_compression=experiment.compression,
                    levels=experiment.rewinding.levels,
                    finished=run.status()["state"] == "done",
                )
            )
    first = list(tables.COLUMNS[table])
    if not parts:
        return pd.DataFrame(columns=[*first, "run", "target_compression", "levels", "finished"])
    frame = pd.concat([part.astype(object) for part in parts], ignore_index=True).infer_objects()
    more = [column for column in frame.columns if column not in first]
    return frame.reindex(columns=[*first, *more])


def run(arguments: Sequence[str]) -> None:
    """Entry point."""
    cli.run(Config, main, "python -m analysis collect", arguments)
