"""Is it the score or the iteration? Every score in 1 to 300 iterations (question 1)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from analysis.experiments.shared import PRUNERS, measured, needs_labels, network
from analysis.experiments.study import PAPER, SMALL, TINY
from analysis.questions.iterations import TABLE
from analysis.resumable import Measured, runner
from collapse import critical, pruning, tables
from collapse import masks as masking
from collapse.errors import RequestError
from collapse.options import Mode, Pruning, ScheduleName, Setup

if TYPE_CHECKING:
    import pandas as pd

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
                about = f"{pruner} in {iterations} iterations, seed {seed}"
                measure = partial(_measure, config, options)
                row = {"compression": config.compression}
                key = {**row, "scan": [config.scan, config.tolerance]}
                found.append(measured(TABLE, config.setup, options, about, measure, row, **key))
    return found


run = runner(points, TABLE)


def _measure(config: Config, options: Pruning) -> pd.DataFrame:
    import pandas as pd

    prepared = network(config.setup, options.seed, needs_labels(config.pruners))
    found = critical.critical_compression(
        prepared,
        options=options,
        scan=config.scan,
        tolerance=config.tolerance,
        effective=False,
    )
    masks = pruning.prune(prepared, options=options, compression=config.compression).masks
    layers = tables.layer_rows(found.sizes, masking.kept_by_layer(masks), None, {})
    columns = ["layer", "layer_index", "parameters", "kept", "density"]
    search = ("maximal_compression", "critical_compression", "collapse_compression", "monotone",
              "first_collapsed_layer", "evidence")  # fmt: skip
    known = {name: getattr(found, name) for name in search}
    return pd.DataFrame(layers)[columns].assign(**known)
