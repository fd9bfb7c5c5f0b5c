"""``python -m analysis collect SPEC.toml``: one table of all runs of a sweep so far."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from collapse import cli
from collapse.errors import RequestError
from collapse.options import Data, File, Runs

if TYPE_CHECKING:
    import pandas as pd

    from collapse.runs import Experiment


@dataclass(frozen=True, kw_only=True)
class Config(Runs, Data):
    """Put the tables of all runs of a sweep together, also while it runs.

    Runs that have not finished give the rows that they have; their column `finished` is false. One
    whose files are not what was written is left out and named, with exit code 1.

    Attributes:
        spec: the sweep's TOML file.
        table: which of the runs' tables.
        out: write it there (.parquet, .csv, .json); without it CSV goes to the output.
    """

    spec: tyro.conf.Positional[Path]
    table: Literal["training", "score_dynamics", "layers", "levels", "conserved_quantity"] = (
        "training"
    )
    out: File = None


def main(config: Config) -> int:
    """Run the request; the exit code is 1 where a run is corrupt."""
    outputs = cli.Outputs(**{config.table: config.out})

    from analysis.sweeps import spec

    experiments = spec.read(config.spec, data_root=config.data_root)
    frame, corrupt = collected(experiments, config.runs, config.table)
    for name, error in corrupt.items():
        print(
            f"run {name} is corrupt ({error}): left out; python -m analysis sweep does it again",
            file=sys.stderr,
        )
    if config.out is None:
        frame.to_csv(sys.stdout, index=False)
        return int(bool(corrupt))
    outputs.write(config.table, frame)
    finished = frame.drop_duplicates("run")["finished"].astype(bool)
    print(
        f"{len(frame):,} rows of {len(finished)} runs, {int(finished.sum())} of them finished: "
        f"{config.out}"
    )
    return int(bool(corrupt))


def collected(
    experiments: Sequence[Experiment], runs: Path, table: str
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The rows of every run that has any, with the settings of each point of the grid.

    Returns:
        The columns of the contract, then ``run, target_compression, levels, finished`` and the
        table's further ones (points that share a run, nothing pruned, each have its rows); and of
        runs that are left out because they are corrupt, why.
    """
    import pandas as pd

    from collapse import tables

    parts, corrupt = [], {}
    for experiment in experiments:
        run = experiment.run(runs)
        status = run.status()
        if status["state"] == "corrupt":
            corrupt[run.name] = status["error"]
            continue
        with suppress(RequestError):  # nothing yet
            part = run.table(table)
            settings = {k: v for k, v in experiment.row().items() if k not in part.columns}
            parts.append(
                part.assign(
                    **settings,
                    run=run.name,
                    target_compression=experiment.compression,
                    levels=experiment.rewinding.levels,
                    finished=status["state"] == "done",
                )
            )
    first = list(tables.COLUMNS[table])
    if not parts:
        empty = [*first, "run", "target_compression", "levels", "finished"]
        return pd.DataFrame(columns=empty), corrupt
    frame = pd.concat([part.astype(object) for part in parts], ignore_index=True).infer_objects()
    more = [column for column in frame.columns if column not in first]
    return frame.reindex(columns=[*first, *more]), corrupt


run = partial(cli.run, Config, main, prog="python -m analysis collect")
