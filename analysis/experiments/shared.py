"""What the experiments at initialisation share: the network, its rows, its compressions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from analysis.resumable import Measured, Trained
from collapse import masks as masking
from collapse import runs, tables
from collapse.errors import RequestError
from collapse.options import PER_CLASS, Mode, Pruning, Setup

if TYPE_CHECKING:
    import pandas as pd

    from collapse.problem import Problem
    from collapse.runs import Experiment, Run

PRUNERS = ("random", "magnitude", "snip", "grasp", "synflow")
# The published numbers were scored in eval mode (DESIGN section 3): figures compare with them.
MODE: Mode = "eval"
VGG19 = Setup(
    "vgg19", "imagenet", input_shape=(3, 224, 224), classes=1000, samples_per_class=PER_CLASS
)


@dataclass(frozen=True)
class Scored:
    """What every experiment takes that scores one network by several pruners.

    Attributes:
        pruners: random, magnitude, snip, grasp, synflow, or package.module:function.
        mode: in which snip and grasp are scored; eval as in the published numbers.
        seed: of initialisation, samples and random scores.
    """

    setup: Setup
    pruners: tuple[str, ...] = PRUNERS
    mode: Mode = MODE
    seed: int = 0

    def prepared(self) -> Problem:
        """The network with its scoring batches."""
        return network(self.setup, self.seed, needs_labels(self.pruners))

    def once(self, pruner: str) -> Pruning:
        """A pruner's scores in the dense network."""
        return Pruning(pruner=pruner, iterations=1, mode=self.mode, seed=self.seed)


@lru_cache(maxsize=1)
def network(setup: Setup, seed: int, labelled: bool) -> Problem:
    """A network with its scoring batches, kept for the next point."""
    from collapse.problem import prepare

    return prepare(setup, seed, labelled=labelled)


def needs_labels(pruners: Sequence[str]) -> bool:
    """Whether any of these pruners is scored on data.

    Raises:
        RequestError: none given, or an unknown one.
    """
    from collapse.scores import SCORES, about, load_pruner

    if not pruners:
        raise RequestError(f"--pruners: expected at least one of {', '.join(SCORES)}, got none")
    for pruner in pruners:
        load_pruner(pruner)
    return any(about(pruner).data == "labels" for pruner in pruners)


def measured(
    table: str,
    setup: Setup,
    pruning: Pruning,
    about: str,
    measure: Callable[[], pd.DataFrame],
    row: Mapping[str, Any],
    **key: Any,
) -> Measured:
    """A point at initialisation.

    Args:
        measure: its rows; the settings and ``row`` are put beside what it gives.
        row: columns that are known before it is measured.
        key: what the rows depend on beyond what scores and masks do.
    """
    experiment = runs.Experiment(setup, pruning)
    known = {**experiment.row(), **row}

    def rows() -> pd.DataFrame:
        found = measure()
        return found.assign(**{name: known[name] for name in known if name not in found})

    return Measured(table, {**experiment.scoring_config(), **key}, known, about, rows)


def trained(
    table: str, experiment: Experiment, rows: Callable[[Run], pd.DataFrame], **more: Any
) -> Trained:
    """One run as a point.

    Args:
        rows: of the finished run; the settings, its name and ``more`` are put beside them.
    """
    setup, settings, control = experiment.setup, experiment.settings(), experiment.control
    levels = experiment.rewinding.levels
    known = {
        **experiment.row(),
        "control": control,
        "compression": experiment.compression,
        "levels": levels,
        "epochs": settings.epochs,
        "train_images": settings.train_samples or len(experiment.datasets()[0].labels),
        **more,
    }
    row = {name: known[name] for name in tables.COLUMNS[table] if name in known}
    pruner, seed = experiment.pruning.pruner, experiment.pruning.seed
    about = f"{setup.model} {setup.dataset} {pruner} x{experiment.compression:,.4g}"
    about += f" {control}" * (control is not None) + f" in {levels} levels" * bool(levels)
    return Trained(
        experiment,
        row,
        f"{about} seed {seed}",
        lambda run: rows(run).assign(**row, run=run.name),
    )


def given(compressions: Sequence[float]) -> tuple[float, ...]:
    """Compressions as asked for, each once, in order.

    Raises:
        RequestError: none, or one below 1.
    """
    if not compressions:
        raise RequestError("--compressions: expected at least one, got none")
    for compression in compressions:
        masking.keep_count(1, compression)
    return tuple(sorted(set(compressions)))


def powers(base: float, step: float, maximum: float) -> tuple[float, ...]:
    """``base^0, base^step, …`` up to a maximum.

    Raises:
        RequestError: the step is not above 0.
    """
    most = math.log(maximum, base)
    if not most / 10_000 < step < math.inf:
        raise RequestError(
            "expected a step above 0 between two compressions, for at most 10,000 of them; got "
            f"{step:g}"
        )
    count = math.floor(most / step + 1e-9)
    return tuple(float(base ** (step * i)) for i in range(count + 1))
