"""The rows of the leaderboard: what is measured, and how it is resumed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pandas as pd

from analysis.experiments import accuracy
from analysis.experiments.cost import peak
from analysis.experiments.shared import measured, needs_labels, network
from analysis.experiments.study import outcome
from analysis.questions import statistics
from analysis.resumable import After, Measured, Point, Resources, complete
from collapse import cli, critical, tables
from collapse import masks as masking
from collapse.conservation import audit
from collapse.errors import RequestError, first_line
from collapse.models import taken
from collapse.options import Pruning, Rewinding, Setup, Training
from collapse.problem import Problem
from collapse.processes import Listed, Update, shared_out
from collapse.pruning import Step, iterations_of, prune
from collapse.runs import Experiment, Run
from collapse.scores import SCORES

TABLE = tables.declare(
    "leaderboard",
    *tables.SETTINGS,
    *("network", "weights", "parameters", "layers", "maximal_compression"),
    *("critical_compression", "connected_until", "effective_critical_compression"),
    *("first_collapsed_layer", "collapsed_is_cut", "residual", "safe_iterations"),
    *("seconds", "peak_bytes", "problem", "finished"),
)
# At which share of the maximal compression a pruner is to be safe, and in how many iterations.
SAFE_SHARE = 0.1
ITERATIONS = (1, 3, 10, 30, 100)


@dataclass(frozen=True)
class Board:
    """What is compared.

    Attributes:
        networks: by the name that stands in the table, at initialisation.
        trained: the small network that is trained: after pruning, for accuracy, and before it.
        training: of that network.
        compressions: at which accuracy is measured.
        seeds: of accuracy; all else is of the first.
        tolerance: of the critical compression of iterative pruners.
        most: iterations that a pruner takes at most, in these searches and before training.
    """

    networks: dict[str, Setup]
    trained: Setup
    training: Training
    compressions: tuple[float, ...] = (10.0, 100.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    tolerance: float = 0.01
    most: int = 100
    iterations: tuple[int, ...] = field(default=ITERATIONS)


def _narrow(name: str) -> Setup:
    model = f"analysis.leaderboard.networks:{name}"
    return Setup(model, init="kaiming", samples_per_class=2)


def _whole(model: str) -> Setup:
    return Setup(model, dataset="cifar10", init="kaiming")


PRESETS = {
    "laptop": Board(
        {
            "VGG-16-BN/8": _narrow("vgg16_bn"),
            "ResNet-18/8": _narrow("resnet18"),
            "ResNet-50/8": _narrow("resnet50"),
            "MobileNetV2/4": _narrow("mobilenetv2"),
            "ViT-4": _narrow("vit"),
        },
        Setup("conv", init="xavier", samples_per_class=2),
        accuracy.QUICK,
        tolerance=0.2,
        most=10,
        iterations=(1, 3, 10),
    ),
    "full": Board(
        {
            "VGG-16-BN": _whole("vgg16_bn"),
            "ResNet-18": _whole("resnet18"),
            "ResNet-50": _whole("resnet50"),
            "MobileNetV2": _whole("torchvision:mobilenet_v2"),
            "ViT-4": _whole("analysis.leaderboard.networks:vit"),
        },
        Setup("minivgg", dataset="cifar10", init="kaiming"),
        Training(epochs=6, lr=0.05, lr_schedule="cosine", train_batch_size=64, train_samples=2000),
        seeds=(0, 1, 2, 3, 4),
    ),
    "smoke": Board(
        {"fc": Setup("fc", init="xavier", samples_per_class=1)},
        Setup("fc", init="xavier", samples_per_class=1),
        replace(accuracy.QUICK, epochs=1, train_samples=50, test_samples=50),
        compressions=(10.0,),
        seeds=(0,),
        tolerance=0.5,
        most=2,
        iterations=(1, 2),
    ),
}


def registered() -> tuple[str, ...]:
    """Every pruner of the toolkit's, and those that were registered since."""
    return tuple(SCORES)


def board(
    config: Board, pruners: Sequence[str], resources: Resources | None = None, jobs: int = 1
) -> pd.DataFrame:
    """The ``leaderboard`` table; what is done is not done again.

    Args:
        config: what is compared.
        pruners: registered names, or ``package.module:function``.
        resources: folder of runs and progress.
        jobs: processes that cells and trainings are shared out to.

    Beside the declared columns stand ``top1_X``, ``top1_X_low`` and ``top1_X_high`` for each
    compression ``X``, in the rows of the small network before training.

    Raises:
        RequestError: no pruner, or an unknown one; a folder of runs that cannot be written.
    """
    resources = resources or Resources()
    needs_labels(pruners)
    names = list(dict.fromkeys(pruners))
    cells, runs = _cells(config, names), _runs(config, names)
    quiet = replace(resources, execution=replace(resources.execution, quiet=True))
    numbers = range(len(cells) + len(runs))
    with cli.progress(1, resources.execution.quiet) as update:
        work = partial(_numbered, config, tuple(names), quiet)
        done = shared_out(work, Listed(numbers), min(jobs, len(numbers)), update)
    rows = [done[number] for number in numbers]
    collapse = [frame.astype(object) for frame in rows[: len(cells)]]
    table = pd.concat(collapse, ignore_index=True)
    # A run has a row for each of its layers; the accuracy is the same in all.
    after = zip(rows[len(cells) :], runs, strict=True)
    table = _beside(table, pd.DataFrame([{**frame.iloc[0], **more} for frame, (_, more) in after]))
    columns = list(tables.COLUMNS[TABLE])
    more = [name for name in table.columns if name.startswith("top1_")]
    return table.reindex(columns=[*columns, *more]).infer_objects()


def _numbered(
    config: Board, pruners: tuple[str, ...], resources: Resources, number: int, watch: Update
) -> pd.DataFrame:
    """A cell or a training by its number: the points themselves cannot be pickled."""
    needs_labels(pruners)  # a new process has not loaded the user's own
    point = [*_cells(config, pruners), *(run for run, _ in _runs(config, pruners))][number]
    watch(point.about, 0.0)
    frame = _one(point, resources)
    watch(point.about, 1.0)
    return frame


def _cells(config: Board, pruners: Sequence[str]) -> list[Point]:
    """One of each network and pruner, the small one before and after its training."""
    found: list[Point] = []
    seed, small = config.seeds[0], _small(config)
    for name, setup in {**config.networks, small: config.trained}.items():
        for pruner in pruners:
            options = _options(config, pruner, seed)
            found.append(_point(config, setup, options, network=name, weights="random"))
    dense = outcome(_experiment(config, "magnitude", 1.0, seed))
    for pruner in pruners:
        options = _options(config, pruner, seed)

        def after(run: Run, options: Pruning = options) -> Measured:
            weights = str(run.folder / "weights.safetensors")
            setup = replace(config.trained, weights=weights)
            return _point(config, setup, options, network=small, weights="trained")

        row = _point(config, config.trained, options, network=small, weights="trained").row
        found.append(After(dense, row, f"{pruner} on trained weights", after))
    return found


def _runs(config: Board, pruners: Sequence[str]) -> list[tuple[Point, dict[str, Any]]]:
    """The trainings of the pruned small network, each with what it is of."""
    return [
        (
            outcome(_experiment(config, pruner, compression, seed)),
            {"pruner": pruner, "compression": compression},
        )
        for pruner in pruners
        for compression in config.compressions
        for seed in dict.fromkeys(config.seeds)
    ]


def _small(config: Board) -> str:
    return config.trained.model.rpartition(":")[2]


def _experiment(config: Board, pruner: str, compression: float, seed: int) -> Experiment:
    options, once = _options(config, pruner, seed), Rewinding(levels=0)
    return Experiment(config.trained, options, config.training, once, compression)


def _options(config: Board, pruner: str, seed: int) -> Pruning:
    options = Pruning(pruner, seed=seed)
    own = iterations_of(options)
    return options if own <= config.most else replace(options, iterations=config.most)


def _one(point: Point, resources: Resources) -> pd.DataFrame:
    """A point's rows, or one that says why there are none. What failed is tried again next time."""
    said: list[str] = []
    try:
        frame = complete([point], TABLE, replace(resources, say=said.append))
    except Exception as error:  # a pruner may raise anything, and the others go on
        problem = str(error) if isinstance(error, RequestError) else (
            f"{type(error).__name__}: {first_line(error)}"
        )  # fmt: skip
        return pd.DataFrame([{**point.row, "problem": problem, "finished": False}])
    return frame.assign(problem="; ".join(said) or None)


def _beside(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The accuracies in the rows of the small network, which come last but for the trained ones."""
    small = table["network"] == table["network"].iloc[-1]
    if "top1" not in runs:  # every training failed
        runs = runs.assign(top1=None)
    for (pruner, compression), part in runs.groupby(["pruner", "compression"], sort=False):
        here = small & (table["weights"] == "random") & (table["pruner"] == pruner)
        found = statistics.mean(part["top1"].astype(float))
        for suffix, value in (("", found.estimate), ("_low", found.low), ("_high", found.high)):
            table.loc[here, f"top1_{compression:g}{suffix}"] = value
        failed = part["problem"].dropna()
        if len(failed) and table.loc[here, "problem"].isna().all():
            table.loc[here, "problem"] = failed.iloc[0]
    return table


# --- One cell ---------------------------------------------------------------------------------


def _point(config: Board, setup: Setup, options: Pruning, **row: str) -> Measured:
    key = {"tolerance": config.tolerance, "safe": [SAFE_SHARE, list(config.iterations)]}
    measure = partial(_measure, config, setup, options)
    about = f"{setup.model.rpartition(':')[2]} {options.pruner}"
    return measured(TABLE, setup, options, about, measure, row, **key)


def _measure(config: Board, setup: Setup, options: Pruning) -> pd.DataFrame:
    """Collapse, conservation and cost of one pruner on one network."""
    problem = network(setup, options.seed, labelled=True)
    before = peak(problem.device, reset=True)
    row = critical.measure(setup, problem, options, scan=0, tolerance=config.tolerance)
    used = max(0, peak(problem.device) - before)
    return critical.frame_of([row]).assign(
        residual=_residual(problem, options),
        safe_iterations=_safe(config, problem, options),
        peak_bytes=used,
        problem=None,
    )


def _residual(problem: Problem, options: Pruning) -> float | None:
    """The worst residual of the pruner's own scores; None where no flow can be recorded."""
    batch = taken(problem.batches[0], slice(0, 8))
    try:
        found = audit(
            problem.model, batch, pruner=options.pruner, loss=problem.loss, seed=options.seed
        )
    except RequestError:
        return None
    own = found.ledger[found.ledger["identity"].str.startswith(("score", "grasp"))]
    return float(own["residual"].max()) if len(own) else None


def _safe(config: Board, problem: Problem, options: Pruning) -> int | None:
    """In how many iterations every layer survives a tenth of the maximal compression."""
    start = problem.start()
    keep = math.ceil(len(start) / SAFE_SHARE)

    def collapsed(step: Step) -> bool:
        return min(step.kept_by_layer.values()) == 0

    for iterations in config.iterations:
        chosen = replace(options, iterations=iterations)
        found = prune(problem, options=chosen, keep=keep, on_step=collapsed)
        if not masking.collapsed(found.masks):
            return iterations
    return None
