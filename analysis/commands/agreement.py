"""``python -m analysis agreement``: our results against the paper's published numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from collapse import cli
from collapse.errors import RequestError
from collapse.options import File, shown


@dataclass(frozen=True)
class Config:
    """Whether our results are the published ones: in words first, then figure by figure.

    Exit code 1 if a pruner's first layer to collapse is another than in figure 2 or collapses
    elsewhere, or if a point lies outside that chance and data cannot move: densities and mean
    scores of random, magnitude and SynFlow, and the prune-to-cut ratio from 10 iterations on.

    Attributes:
        results: the folder of our tables, each named after its experiment.
        out: write every compared point (.parquet, .csv, .json).
    """

    results: Annotated[Path | None, shown("DIR", "analysis/results")] = None
    out: File = None


def main(config: Config) -> int:
    """Run the request."""
    outputs = cli.Outputs(agreement=config.out)

    import pandas as pd

    from analysis import published, results
    from analysis.agreement import compare
    from analysis.shown import disagreeing, show
    from collapse import tables

    folder = config.results or results.FOLDER
    if not folder.is_dir():
        raise RequestError(
            f"--results '{folder}': no such folder; expected one with tables such as "
            f"{', '.join(f'{name}.csv' for name in list(published.NETWORKS)[:2])}"
        )
    names = (*published.NETWORKS, *results.LAYERS)
    ours = {name: results.load(name, folder) for name in dict.fromkeys(names)}
    found = {
        name: compare(name, table)
        for name, table in ours.items()
        if table is not None and name in published.NETWORKS
    }
    parts = [each.points.assign(figure=name, verdict=each.verdict) for name, each in found.items()]
    frame = pd.concat([part.astype(object) for part in parts]) if parts else pd.DataFrame()
    frame = frame.reindex(columns=[*tables.COLUMNS["agreement"], *frame.columns.unique()])
    frame = frame.loc[:, ~frame.columns.duplicated()]
    outputs.write("agreement", frame.infer_objects())
    show(found, ours)
    elsewhere = disagreeing(ours["densities"])
    return 1 if elsewhere or any(each.failed for each in found.values()) else 0


run = partial(cli.run, Config, main, prog="python -m analysis agreement")
