"""``python -m analysis reproduce --budget 10m``: as many of the paper's points as fit the time."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from collapse import cli
from collapse.errors import RequestError, unknown
from collapse.files import check_writable
from collapse.options import Count, Execution, Machine, shown

if TYPE_CHECKING:
    from analysis.resumable import Resources, Trained
    from collapse.processes import Update
    from collapse.runs import Experiment

# What has to be trained; the other figures take minutes on a CPU.
FIGURES = ("accuracy", "dynamics", "levels", "grid")


@dataclass(frozen=True)
class Config(Machine):
    """Train points of figures 1, 5 and 6 at the paper's settings, most information a minute first.

    Call it again to go on: what is done stays done, and what the clock stopped goes on from its
    last epoch. Called at several places at once, on one folder of runs, each takes the next point
    that nobody is at. Results are added to --results, and their agreement is printed.

    Attributes:
        budget: how long: 45s, 10m or 2h.
        figures: which: accuracy (1), levels (5a), dynamics (5b), grid (6).
        epochs: a shorter schedule than the paper's; learning-rate drops keep their places in it.
        preset: paper, or laptop or smoke to try it.
        only_cut: train nothing, only find the networks that pruning has cut: their accuracy is the
            share of the commonest class (seconds a point, a CPU will do).
        pruners: only these, in figures that have several; all without it.
        results: the folder that the tables are added to.
    """

    execution: Execution
    budget: str = "10m"
    figures: tuple[str, ...] = FIGURES
    epochs: Count = None
    preset: Literal["paper", "laptop", "smoke"] = "paper"
    only_cut: bool = False
    pruners: tuple[str, ...] = ()
    results: Annotated[Path | None, shown("DIR", "analysis/results")] = None


def main(config: Config) -> None:
    """Run the request."""
    start, budget = time.monotonic(), seconds_of(config.budget)
    config.execution.check()
    for name in config.figures:
        if name not in FIGURES:
            raise unknown("figure", name, FIGURES)
    if not config.figures:
        raise RequestError(f"--figures: expected at least one of {', '.join(FIGURES)}, got none")

    from filelock import FileLock

    from analysis import experiments, published, results
    from analysis.agreement import compare
    from analysis.resumable import Resources, complete
    from analysis.shown import show
    from collapse.problem import choose_device

    folder = config.results or results.FOLDER
    check_writable(folder / "any.csv", (".csv",))
    device = str(choose_device(config.device))
    for name in config.figures:  # say now what cannot be added to, not after the work
        results.load(name, folder)
    points = {name: points_of(name, config) for name in dict.fromkeys(config.figures)}
    resources = Resources(
        config.execution, device=device, time_limit=lambda: start + budget - time.monotonic()
    )
    every = _distinct(point for part in points.values() for point in part)
    # A network that is cut is known in seconds, and needs no training.
    with cli.progress(1.0, config.execution.quiet) as update:
        if config.only_cut:
            done = _look_for_cuts(every, resources, update)
        else:  # of the first seeds, in half of the time
            seed = min(point.experiment.pruning.seed for point in every)
            first = [point for point in every if point.experiment.pruning.seed == seed]
            half = replace(resources, time_limit=lambda: start + budget / 2 - time.monotonic())
            done = _look_for_cuts(first, half, update)
    if not (config.only_cut or _is_late(resources)):  # to estimate takes time as well
        done += _train(in_order(points, resources), resources)
    so_far = Resources(Execution(config.execution.runs, quiet=True), device, so_far=True)
    tables = {}
    with FileLock(config.execution.runs / "results.lock"):  # who else adds to them waits
        for name, part in points.items():
            rows = complete(part, experiments.find(name).TABLE, so_far)
            if rows["finished"].astype(bool).any():
                tables[name] = results.append(name, rows, folder, device)
    there = sum(point.stored(resources) is not None for point in every)
    print(f"{done} points done now, {there} of {len(every)} in all: {folder}")
    show({n: compare(n, t) for n, t in tables.items() if n in published.NETWORKS}, tables)


def _train(queue: Sequence[tuple[Trained, float]], resources: Resources) -> int:
    """Do points in this order while there is time; returns how many.

    Args:
        queue: with the seconds that each is expected to take.
    """
    from analysis.resumable import Progress

    points, costs = [point for point, _ in queue], [cost for _, cost in queue]
    if points and not resources.execution.quiet:
        nearest = ", ".join(f"{p.about} {cli.duration(cost)}" for p, cost in queue[:3])
        print(
            f"{len(points)} points to train, about {cli.duration(sum(costs))} on this device one "
            f"after the other, less what turns out to be cut; the first: {nearest}",
            file=sys.stderr,
        )
    done = 0
    with cli.progress(1.0, resources.execution.quiet) as update:
        progress = Progress(points, update, costs)
        for number, point in enumerate(points):
            if _is_late(resources):
                break
            # Another process may have done it since, or be at it.
            if point.stored(resources) is None and not point.busy(resources):
                done += point.compute(resources, progress.of(number)) is not None
            progress.over(number)
    return done


def _look_for_cuts(queue: Sequence[Trained], resources: Resources, update: Update) -> int:
    """Find the networks that are cut, while there is time; returns how many.

    Of each network, pruner and seed from the highest compression down to one that is not cut; all
    of one seed before the next.
    """
    from analysis.resumable import UnlessCut

    done, whole = 0, set()
    downwards = sorted(queue, key=lambda p: (p.experiment.pruning.seed, -p.experiment.compression))
    for number, point in enumerate(downwards):
        update(point.about, number / len(queue))
        of = (point.experiment.setup, point.experiment.pruning)
        if isinstance(point, UnlessCut) and of not in whole:
            if _is_late(resources):
                break
            new = point.cut.stored(resources) is None
            if point.if_cut(resources, lambda text, share: None) is None:
                whole.add(of)
            elif new:
                done += 1
    return done


def _is_late(resources: Resources) -> bool:
    """A second is not enough to begin anything."""
    return resources.time_limit is not None and resources.time_limit() < 1


def points_of(name: str, config: Config) -> list[Trained]:
    """A figure's points."""
    from analysis import experiments

    module = experiments.find(name)
    preset = module.PRESETS[config.preset]
    setup = replace(preset.setup, data_root=config.data_root, device=config.device)
    changed: dict[str, Any] = {"setup": setup}
    if config.epochs is not None:
        # Without drops of its own: the recipe's come after the same share of the epochs.
        changed["training"] = replace(preset.training, epochs=config.epochs)
    if config.pruners and hasattr(preset, "pruners"):
        changed["pruners"] = config.pruners
    points: list[Trained] = module.points(replace(preset, **changed))
    return points


def in_order(
    points: Mapping[str, Sequence[Trained]], resources: Resources
) -> list[tuple[Trained, float]]:
    """What is not done, most information a minute first, with the seconds each may take.

    A point tells as much as the gap is wide that it fills in its curve. First seeds come first:
    a second one tells only how sure the first was.

    Args:
        points: of each figure, by its name.
    """
    from analysis.sweeps.estimates import gaps, seconds

    queue: dict[Experiment, tuple[tuple[float, ...], Trained, float]] = {}
    for part in points.values():
        compressions = sorted({point.experiment.compression for point in part})
        fills = dict(zip(compressions, gaps(len(compressions)), strict=True))
        for point in part:
            experiment, pruning = point.experiment, point.experiment.pruning
            if experiment not in queue and point.stored(resources) is None:
                cost = seconds(experiment, resources.device)
                price = cost * len(compressions) / fills[experiment.compression]
                queue[experiment] = (pruning.seed, price), point, cost
    return [(point, cost) for _, point, cost in sorted(queue.values(), key=itemgetter(0))]


def _distinct(points: Iterable[Trained]) -> list[Trained]:
    """Runs that several figures share come once."""
    return list({point.experiment: point for point in points}.values())


def seconds_of(budget: str) -> float:
    """Seconds of ``45s``, ``10m``, ``2h``.

    Raises:
        RequestError: anything else, or nothing.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", budget)
    if found is None or float(found[1]) <= 0:
        raise RequestError(f"--budget: expected a time such as 45s, 10m or 2h, got '{budget}'")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


run = partial(cli.run, Config, main, prog="python -m analysis reproduce")
