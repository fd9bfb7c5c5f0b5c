"""Why iteration avoids collapse: pruned score mass against the cut, step by step (figure 7)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from analysis.experiments.shared import given, measured, network
from analysis.resumable import Measured, runner
from collapse import masks as masking
from collapse import pruning, tables
from collapse.options import Pruning, ScheduleName, Setup

if TYPE_CHECKING:
    import pandas as pd

TABLE = tables.declare(
    "cuts",
    *tables.SETTINGS,
    *("compression", "kept", "steps", "max_prune_to_cut_ratio", "collapsed_layers", "finished"),
)


@dataclass(frozen=True)
class Config:
    """Largest ratio of pruned SynFlow mass to the cut, by number of iterations.

    Below 1 in every step, no layer collapses (Theorem 3).

    Attributes:
        compressions: to prune to.
        iterations: of the linear and the exponential schedule.
        schedules: linear, exponential, certified (which takes as many iterations as it needs).
        seed: of the initialisation.
    """

    setup: Setup
    compressions: tuple[float, ...] = (10.0, 100.0, 1000.0)
    iterations: tuple[int, ...] = (1, *range(10, 101, 10))
    schedules: tuple[ScheduleName, ...] = ("linear", "exponential", "certified")
    seed: int = 0


PRESETS = {
    "smoke": Config(Setup("conv"), compressions=(10.0, 1000.0), iterations=(1, 10)),
    "laptop": Config(Setup("vgg11_bn"), iterations=(1, 3, 10, 30, 100)),
    # SynFlow needs no image, so noise of ImageNet's shape is the same network.
    "paper": Config(Setup("vgg19", dataset="gaussian", input_shape=(3, 224, 224), classes=1000)),
}


def points(config: Config) -> list[Measured]:
    """One of each schedule, number of iterations and compression; the quickest first."""
    found = []
    for iterations in sorted(set(config.iterations)):
        for schedule in config.schedules:
            if schedule == "certified" and iterations != max(config.iterations):
                continue  # once: it has no number of iterations
            for compression in given(config.compressions):
                count = None if schedule == "certified" else iterations
                options = Pruning(iterations=count, schedule=schedule, seed=config.seed)
                about = f"{schedule}, {iterations} iterations, to {compression:g}"
                measure = partial(_measure, config, options, compression)
                row = {"compression": compression}
                found.append(measured(TABLE, config.setup, options, about, measure, row, **row))
    return found


run = runner(points, TABLE)


def _measure(config: Config, options: Pruning, compression: float) -> pd.DataFrame:
    import pandas as pd

    prepared = network(config.setup, config.seed, labelled=False)
    result = pruning.prune(prepared, options=options, compression=compression)
    # Nothing was pruned from a cut of zero: that step's mass is zero as well.
    ratios = [step.pruned_mass / step.cut for step in result.steps if step.cut]
    return pd.DataFrame([{
        "kept": masking.kept(result.masks),
        "steps": len(result.steps),
        "max_prune_to_cut_ratio": max(ratios, default=0.0),
        "collapsed_layers": len(masking.collapsed(result.masks)),
    }])  # fmt: skip
