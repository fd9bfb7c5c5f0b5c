"""``python -m analysis status SPEC.toml``: how far the runs of a sweep are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from collapse import cli
from collapse.options import Data, File, Runs


@dataclass(frozen=True, kw_only=True)
class Config(Runs, Data):
    """Show each run of a sweep, also while it runs: done, running, paused, failed, waiting or
    corrupt.

    Attributes:
        spec: the sweep's TOML file.
        out: write it as a table (.parquet, .csv, .json).
    """

    spec: tyro.conf.Positional[Path]
    out: File = None


def main(config: Config) -> None:
    """Run the request."""
    outputs = cli.Outputs(status=config.out)

    from analysis.sweeps import spec, sweeping
    from analysis.sweeps.overview import overview, show

    experiments = spec.read(config.spec, data_root=config.data_root)
    runs = sweeping.distinct(experiments, config.runs)
    table = overview(list(runs.values()), config.runs)
    outputs.write("status", table)
    show(table)


run = partial(cli.run, Config, main, prog="python -m analysis status")
