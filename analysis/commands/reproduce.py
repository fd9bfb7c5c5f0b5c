"""``python -m analysis reproduce --budget 10m``: as many of the paper's points as fit the time."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from collapse import cli
from collapse.errors import RequestError, unknown
from collapse.files import check_writable
from collapse.options import Count, Execution, Machine, shown

if TYPE_CHECKING:
    from analysis.resumable import Progress, Resources, Trained, Update

# What has to be trained; the other figures take minutes on a CPU.
FIGURES = ("accuracy", "dynamics", "levels", "grid")


@dataclass(frozen=True)
class Config(Machine):
    """Train points of figures 1, 5 and 6 at the paper's settings, the most informative first.

    Call it again to go on: what is done stays done, and what the clock stopped goes on from its
    last epoch. Results are added to --results, and their agreement is printed.

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
    end = time.monotonic() + seconds_of(config.budget)
    for name in config.figures:
        if name not in FIGURES:
            raise unknown("figure", name, FIGURES)
    if not config.figures:
        raise RequestError(f"--figures: expected at least one of {', '.join(FIGURES)}, got none")

    from analysis import experiments, published, results
    from analysis.agreement import compare
    from analysis.resumable import Progress, Resources, complete
    from analysis.shown import show
    from collapse.problem import choose_device

    folder = config.results or results.FOLDER
    check_writable(folder / "any.csv", (".csv",))
    device = str(choose_device(config.device))
    for name in config.figures:  # say now what cannot be added to, not after the work
        results.load(name, folder)
    points = {name: ordered(name, config) for name in dict.fromkeys(config.figures)}
    resources = Resources(
        config.execution, device=device, time_limit=lambda: end - time.monotonic()
    )
    queue = list(_in_turn(points))
    with cli.progress(1.0, config.execution.quiet) as update:
        if config.only_cut:
            done = _look_for_cuts(queue, resources, update)
        else:
            done = _train(queue, resources, Progress(queue, update))
    tables = {}
    for name, part in points.items():
        so_far = Resources(Execution(config.execution.runs, quiet=True), device, so_far=True)
        rows = complete(part, experiments.find(name).TABLE, so_far)
        if rows["finished"].astype(bool).any():
            tables[name] = results.append(name, rows, folder, device)
    there = sum(point.stored(resources) is not None for point in queue)
    print(f"{done} points done now, {there} of {len(queue)} in all: {folder}")
    show({n: compare(n, t) for n, t in tables.items() if n in published.NETWORKS}, tables)


def _train(queue: Sequence[Trained], resources: Resources, progress: Progress) -> int:
    """Do points in this order while there is time; returns how many."""
    done = 0
    for number, point in enumerate(queue):
        if point.stored(resources) is None:
            if _is_late(resources):
                break
            done += point.compute(resources, progress.of(number)) is not None
        progress.over(number)
    return done


def _look_for_cuts(queue: Sequence[Trained], resources: Resources, update: Update) -> int:
    """Find the networks that are cut, while there is time; returns how many.

    Of each network, pruner and seed from the highest compression down to one that is not cut.
    """
    from analysis.resumable import UnlessCut

    done, whole = 0, set()
    downwards = sorted(queue, key=lambda point: -point.experiment.compression)
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


def ordered(name: str, config: Config) -> list[Trained]:
    """A figure's points, the most informative first.

    First seeds first; compressions from both ends and the middle inwards, so that a curve is there
    early and gets finer; the pruners as the paper ranks them.
    """
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
    compressions = sorted({point.experiment.compression for point in points})
    rank = {compressions[place]: turn for turn, place in enumerate(bisecting(len(compressions)))}
    pruners = ("synflow", "magnitude", "snip", "grasp", "random")

    def key(point: Trained) -> tuple[Any, ...]:
        pruning = point.experiment.pruning
        place = pruners.index(pruning.pruner) if pruning.pruner in pruners else len(pruners)
        return pruning.seed, rank[point.experiment.compression], place

    return sorted(points, key=key)


def bisecting(count: int) -> list[int]:
    """0 … count − 1: the ends, then the middle of every gap, the widest first."""
    order = [0, count - 1][:count]
    while len(order) < count:
        edges = sorted(order)
        low, high = max(itertools.pairwise(edges), key=lambda gap: gap[1] - gap[0])
        order.append((low + high) // 2)
    return order


def _in_turn(points: dict[str, list[Trained]]) -> Iterator[Trained]:
    """One of each figure after the other, until all are through; shared runs come once."""
    seen: set[tuple[Any, ...]] = set()
    for turn in range(max(map(len, points.values()), default=0)):
        for part in points.values():
            if turn < len(part) and (name := (part[turn].experiment,)) not in seen:
                seen.add(name)
                yield part[turn]


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
