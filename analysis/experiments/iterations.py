"""Is it the score or the iteration? Every score in 1 to 300 iterations (question 1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd

from analysis.experiments.shared import PRUNERS, key_of, needs_labels, network, row_of
from analysis.experiments.study import PAPER, SMALL, TINY
from analysis.questions import answers
from analysis.resumable import Measured, Work, complete
from collapse import masks as masking
from collapse import tables
from collapse.critical import critical_compression
from collapse.errors import RequestError
from collapse.options import Mode, Pruning, ScheduleName, Setup
from collapse.pruning import prune

TABLE = "iterations"
_FEW_SAMPLES = replace(SMALL, samples_per_class=1)


@dataclass(frozen=True)
class Config:
    """Critical compression, collapse compression and densities, by the number of iterations.

    Attributes:
        pruners: random, magnitude, snip, grasp, synflow, or package.module:function.
        iterations: each of them.
        compression: at which densities are shown.
        scan: further compressions that are tested on either side of the critical one.
        tolerance: to which the critical compression of several iterations is searched.
        mode: in which snip and grasp are scored; train without it, as in their papers.
        seeds: of initialisation, samples and random scores.
    """

    setup: Setup = _FEW_SAMPLES
    pruners: tuple[str, ...] = PRUNERS
    iterations: tuple[int, ...] = (1, 3, 10, 30, 100, 300)
    schedule: ScheduleName = "exponential"
    compression: float = 100.0
    scan: int = 1
    tolerance: float = 0.02
    mode: Mode | None = None
    seeds: tuple[int, ...] = (0, 1, 2)


PRESETS = {
    "smoke": Config(
        TINY, ("magnitude", "synflow"), iterations=(1, 3), compression=10.0, seeds=(0, 1, 2)
    ),
    "laptop": Config(),
    "paper": Config(PAPER, scan=8, tolerance=0.0),
}


def points(config: Config) -> list[Measured]:
    """One of each seed, number of iterations and pruner.

    Raises:
        RequestError: one of them is empty or wrong.
    """
    needs_labels(config.pruners)
    if not config.iterations or min(config.iterations) < 1:
        raise RequestError(f"--iterations: expected numbers from 1 up, got {config.iterations}")
    if not config.seeds:
        raise RequestError("--seeds: expected at least one, got none")
    masking.keep_count(1, config.compression)
    found = []
    for seed in dict.fromkeys(config.seeds):
        for iterations in sorted(set(config.iterations)):
            for pruner in dict.fromkeys(config.pruners):
                options = Pruning(pruner, iterations, config.schedule, mode=config.mode, seed=seed)
                row = {**row_of(config.setup, options), "compression": config.compression}
                key = key_of(config.setup, options)
                found.append(
                    Measured(
                        TABLE,
                        {
                            **key,
                            "compression": config.compression,
                            "scan": [config.scan, config.tolerance],
                        },
                        row,
                        f"{pruner} in {iterations} iterations, seed {seed}",
                        partial(_measure, config, options, row),
                    )
                )
    return found


def run(config: Config, work: Work | None = None) -> pd.DataFrame:
    """The ``iterations`` table: a row a pruner, number of iterations, seed and layer."""
    return complete(points(config), TABLE, work)


def _measure(config: Config, options: Pruning, row: dict[str, Any]) -> pd.DataFrame:
    prepared = network(config.setup, options.seed, needs_labels(config.pruners))
    found = critical_compression(
        prepared,
        options=options,
        scan=config.scan,
        tolerance=config.tolerance,
        effective=False,
    )
    masks = prune(prepared, options=options, compression=config.compression).masks
    layers = tables.layer_rows(found.sizes, masking.kept_by_layer(masks), None, {})
    return pd.DataFrame(layers)[["layer", "layer_index", "parameters", "kept", "density"]].assign(
        **row,
        maximal_compression=found.maximal_compression,
        critical_compression=found.critical_compression,
        collapse_compression=found.collapse_compression,
        monotone=found.monotone,
        first_collapsed_layer=found.first_collapsed_layer,
        evidence=found.evidence,
    )


def answer(table: pd.DataFrame) -> pd.DataFrame:
    """log10 of the critical compression, and how many layers are empty at the compression."""
    done = table[table["finished"].astype(str).str.lower() == "true"]
    by = [*tables.SETTINGS, "compression"]
    found = done.groupby(by, dropna=False, sort=False).agg(
        critical=("critical_compression", "first"),
        empty=("kept", lambda kept: int((kept == 0).sum())),
    )
    each = found.reset_index()
    each = each.assign(mode=None, critical=answers.log10(each["critical"]))
    parts = []
    for iterations, rows in each.groupby("iterations"):
        alone = rows.drop(columns="compression")
        for part in (
            answers.means(alone, "critical", "log10 critical compression"),
            answers.means(rows, "empty", "empty layers"),
        ):
            parts.append([
                {**one, "where": f"{one['where']}, iterations {iterations}"} for one in part
            ])  # fmt: skip
    return answers.collect(*parts)
