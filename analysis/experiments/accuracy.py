"""Does avoiding collapse keep accuracy? Test accuracy against compression (figure 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import tyro

from analysis.experiments.shared import (
    MODE,
    PRUNERS,
    given,
    measured,
    needs_labels,
    network,
    powers,
    trained,
)
from analysis.questions.accuracy import TABLE
from analysis.resumable import Measured, Resources, Trained, UnlessCut, complete
from collapse import critical, pruning, runs, tables
from collapse import masks as masking
from collapse.errors import RequestError
from collapse.options import Mode, Pruning, Rewinding, Setup, Training

if TYPE_CHECKING:
    import pandas as pd

    from collapse.runs import Run

# Small enough to train a network in a second on one core, and it learns.
QUICK = Training(epochs=6, lr=0.01, train_batch_size=32, train_samples=400)
# From where nothing is lost to where a network of a hundred thousand weights learns nothing.
DECADES = (10.0, 10**1.5, 100.0, 10**2.5, 1000.0)


@dataclass(frozen=True)
class Config:
    """Prune at initialisation to each compression, train, test; and where each pruner collapses.

    Attributes:
        pruners: random, magnitude, snip, grasp, synflow, or package.module:function.
        compressions: to prune to; without them powers of ten up to the maximal compression.
        log10_step: between two of these powers.
        mode: in which snip and grasp are scored; eval as in the published numbers.
        seeds: one run each, of everything random.
        train_cut: also train networks that are cut. They compute a constant, so that without it
            their accuracy is the share of the commonest class (``evidence`` says ``cut``).
    """

    setup: Setup
    training: Training = field(default_factory=Training)
    pruners: tuple[str, ...] = PRUNERS
    compressions: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="X ...")] = None
    log10_step: float = 0.25
    mode: Mode = MODE
    seeds: tuple[int, ...] = (0, 1, 2)
    train_cut: bool = False


PRESETS = {
    "smoke": Config(
        Setup("fc", init="xavier"),
        replace(QUICK, epochs=1),
        pruners=("magnitude", "synflow"),
        log10_step=2,
        seeds=(0, 1),
    ),
    "laptop": Config(Setup("conv", init="xavier"), QUICK, compressions=DECADES),
    "paper": Config(Setup("vgg16_bn", dataset="cifar100")),
}


def points(config: Config) -> list[Trained]:
    """One of each seed, compression and pruner."""
    if config.compressions is None:
        compressions = powers(10, config.log10_step, maximum_of(config))
    else:
        compressions = given(config.compressions)
    found = []
    for seed in dict.fromkeys(config.seeds):
        for compression in compressions:
            for pruner in dict.fromkeys(config.pruners):
                options = Pruning(pruner=pruner, mode=config.mode, seed=seed)
                experiment = runs.Experiment(
                    config.setup, options, config.training, Rewinding(levels=0), compression
                )
                point = trained(TABLE, experiment, rows)
                if compression > 1 and not config.train_cut:
                    point = _unless_cut(point, needs_labels(config.pruners))
                found.append(point)
    return found


def _unless_cut(point: Trained, labelled: bool) -> Trained:
    """The point, which is not trained where its masks cut the network."""
    experiment = point.experiment
    key = {**experiment.config(), "cut": True}
    about, measure = f"{point.about}: is it cut?", partial(_cut, point, labelled)
    cut = Measured(TABLE, key, point.row, about, measure)
    return UnlessCut(experiment, point.row, point.about, point.rows, cut)


def _cut(point: Trained, labelled: bool) -> pd.DataFrame:
    """The row of a cut network; none if a path is left, or if only its run can tell."""
    import pandas as pd

    from collapse import connectivity

    experiment = point.experiment
    problem = network(experiment.setup, experiment.pruning.seed, labelled)
    columns = [*tables.COLUMNS[TABLE], "evidence"]
    none = pd.DataFrame(columns=[name for name in columns if name != "finished"])
    try:
        found = pruning.prune(
            problem, options=experiment.pruning, compression=experiment.compression
        )
    except RequestError:
        return none
    example = problem.example
    if connectivity.connected(problem.model, found.masks, example, output=problem.output):
        return none
    samples = experiment.settings().test_samples
    labels = experiment.datasets()[1].part(samples, "--test-samples").labels
    chance = 100 * float(labels.bincount().max()) / len(labels)
    sizes = masking.sizes(found.masks)
    total = sum(sizes.values())
    return pd.DataFrame([{
        **dict.fromkeys(none.columns),
        **point.row,
        "parameters": total,
        "layers": len(sizes),
        "maximal_compression": total / len(sizes),
        "kept": masking.kept(found.masks),
        "collapsed_layers": len(masking.collapsed(found.masks)),
        "top1": chance,
        "best_top1": chance,
        "evidence": "cut",
    }])  # fmt: skip


def rows(run: Run) -> pd.DataFrame:
    """The ticket's accuracy: the best over epochs, as in the published numbers, and the last.

    The critical compression is that of the last ranking before the ticket.
    """
    import pandas as pd

    ticket, layers = run.table("levels").iloc[-1], run.table("score_dynamics")
    sizes = layers["parameters"][: layers["layer"].nunique()]
    numbers = ("kept", "collapsed_layers", "critical_compression", "top1", "best_top1", "loss")
    return pd.DataFrame([{
        "parameters": sizes.sum(),
        "layers": len(sizes),
        "maximal_compression": sizes.sum() / len(sizes),
        **{name: ticket[name] for name in numbers},
        "evidence": "trained",
    }])  # fmt: skip


def critical_points(config: Config) -> list[Measured]:
    """One of each seed and pruner, as rows of the ``critical`` table."""
    labelled = needs_labels(config.pruners)
    found = []
    for seed in dict.fromkeys(config.seeds):
        for pruner in dict.fromkeys(config.pruners):
            options = Pruning(pruner=pruner, mode=config.mode, seed=seed)
            about = f"critical compression of {pruner}, seed {seed}"
            measure = partial(_critical, config.setup, options, labelled)
            point = measured("critical", config.setup, options, about, measure, {}, effective=False)
            found.append(point)
    return found


def _critical(setup: Setup, options: Pruning, labelled: bool) -> pd.DataFrame:
    prepared = network(setup, options.seed, labelled)
    return critical.frame_of([critical.measure(setup, prepared, options, effective=False)])


def run(config: Config, resources: Resources | None = None) -> pd.DataFrame:
    """The ``accuracy`` table, with each pruner's critical compression beside its rows."""
    known = complete(critical_points(config), "critical", resources)
    return beside(known, complete(points(config), TABLE, resources))


_NETWORK = ("model", "dataset", "pruner", "seed")
_KNOWN = ("parameters", "layers", "maximal_compression", "critical_compression")


def beside(known: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """An ``accuracy`` table with the columns that a ``critical`` one knows better."""
    better = known[[*_NETWORK, *_KNOWN]]
    merged = table.drop(columns=list(_KNOWN)).merge(better, on=list(_NETWORK), how="left")
    return merged[list(table.columns)]


def maximum_of(config: Config) -> float:
    """``N / L`` of the network."""
    seeds: Sequence[int] = config.seeds or (0,)
    dense = network(config.setup, seeds[0], needs_labels(config.pruners)).dense()
    return masking.total(dense) / len(dense)
