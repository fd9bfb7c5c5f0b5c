"""What the reviewers' questions share that train pruned networks: an ``outcomes`` table.

They ask it of different runs; runs that two questions share are done once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from analysis.experiments.shared import PRUNERS, given, measured, needs_labels, trained
from analysis.questions.outcomes import TABLE
from analysis.resumable import After, Measured, Point, Trained
from collapse import critical, pruning, runs, tables
from collapse import masks as masking
from collapse.errors import RequestError
from collapse.options import Mode, Pruning, Rewinding, Setup, Training

if TYPE_CHECKING:
    import pandas as pd

    from collapse.runs import Experiment, Run

# Real images and a network deep and uneven enough to collapse, in ten seconds a run on one core.
# Kaiming as in the paper: torchvision's own VGG has a head of tiny weights, which magnitude prunes
# first, at a compression of two.
SMALL = Setup("minivgg", dataset="cifar10", init="kaiming")
SHORT = Training(
    epochs=6, lr=0.05, lr_schedule="cosine", train_batch_size=64, augmentation="none",
    train_samples=2000, test_samples=2000,
)  # fmt: skip
SEEDS = (0, 1, 2, 3, 4)
PAPER = Setup("vgg16_bn", dataset="cifar100", init="kaiming")
# To try it: a second in all.
TINY = Setup("fc", init="xavier")
HASTY = Training(epochs=1, lr=0.01, train_batch_size=32, train_samples=100, test_samples=100)


@dataclass(frozen=True)
class Study:
    """What every question takes that trains pruned networks.

    Attributes:
        pruners: random, magnitude, snip, grasp, synflow, or package.module:function.
        compressions: to prune to.
        mode: in which snip and grasp are scored; train without it, as in their papers.
        seeds: one run each, of everything random; intervals need three or more.
    """

    setup: Setup = SMALL
    training: Training = SHORT
    pruners: tuple[str, ...] = PRUNERS
    compressions: tuple[float, ...] = (10.0, 100.0)
    mode: Mode | None = None
    seeds: tuple[int, ...] = SEEDS

    def each(self) -> Iterable[tuple[int, float, str]]:
        """Seed, compression and pruner of every run.

        Raises:
            RequestError: one of them is empty or wrong.
        """
        needs_labels(self.pruners)
        if not self.seeds:
            raise RequestError("--seeds: expected at least one, got none")
        for seed in dict.fromkeys(self.seeds):
            for compression in given(self.compressions):
                for pruner in dict.fromkeys(self.pruners):
                    yield seed, compression, pruner

    def experiment(self, seed: int, compression: float, pruner: str, **more: Any) -> Experiment:
        """Prune at initialisation and train; what ``more`` says is different."""
        options = Pruning(pruner=pruner, mode=self.mode, seed=seed)
        base = runs.Experiment(self.setup, options, self.training, Rewinding(levels=0), compression)
        return replace(base, **more)

    def dense(self) -> list[Trained]:
        """Nothing pruned, once a seed: what the others are compared with."""
        return [outcome(self.experiment(seed, 1.0, "magnitude")) for seed in self.seeds]


def outcome(experiment: Experiment) -> Trained:
    """One run as a point of this table."""
    weights = "trained" if experiment.rewinding.levels else "random"
    return trained(TABLE, experiment, partial(_rows, experiment), weights=weights)


def _rows(experiment: Experiment, run: Run) -> pd.DataFrame:
    ticket, layers = run.table("levels").iloc[-1], run.table("layers")
    last = layers[layers["level"] == layers["level"].max()]
    # The last of several rankings is not what the pruner's critical compression is.
    rankings = pruning.iterations_of(experiment.pruning) * max(1, experiment.rewinding.levels)
    once = rankings == 1 and experiment.control is None
    columns = ["layer", "layer_index", "parameters", "kept", "density", "effective_kept"]
    found: pd.DataFrame = last[columns].assign(
        critical_compression=ticket["critical_compression"] if once else None,
        top1=ticket["top1"],
        best_top1=ticket["best_top1"],
    )
    return found


def untrained(
    setup: Setup, options: Pruning, compression: float, after: Trained | None = None
) -> Point:
    """A pruning alone: densities at one compression, and the critical compression.

    Args:
        after: prune the weights that this run ends with.
    """
    row = {
        "weights": "random" if after is None else "trained",
        "compression": compression,
        "epochs": 0,
        # What only a training has.
        **dict.fromkeys(("control", "levels", "train_images", "top1", "best_top1", "run")),
    }
    about = f"{setup.model} {options.pruner} {row['weights']} weights, seed {options.seed}"

    def point(setup: Setup) -> Measured:
        measure = partial(_untrained, setup, options, compression)
        return measured(TABLE, setup, options, about, measure, row, compression=compression)

    if after is None:
        return point(setup)
    return After(
        after,
        point(setup).row,
        about,
        lambda run: point(replace(setup, weights=str(run.folder / "weights.safetensors"))),
    )


def _untrained(setup: Setup, options: Pruning, compression: float) -> pd.DataFrame:
    import pandas as pd

    from collapse import connectivity
    from collapse.problem import prepare

    prepared = prepare(setup, options.seed, labelled=needs_labels([options.pruner]))
    model, output = prepared.model, setup.output
    result = pruning.prune(prepared, options=options, compression=compression)
    if pruning.iterations_of(options) == 1:  # known from this one ranking
        rank = masking.first_to_collapse(result.scores, result.ranked)[1]
        compressed = masking.total(result.masks) / rank
    else:
        compressed = critical.critical_compression(
            prepared, options=options, scan=0, effective=False
        ).critical_compression
    alive = connectivity.living(model, result.masks, prepared.example, output=output)
    rows = tables.layer_rows(
        masking.sizes(result.masks),
        masking.kept_by_layer(result.masks),
        masking.kept_by_layer(alive),
        masking.sums(result.scores),
    )
    found: pd.DataFrame = pd.DataFrame(rows).drop(columns="compression")
    return found.assign(critical_compression=compressed)
