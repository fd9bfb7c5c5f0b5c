"""``prune()``: score → select → mask, iterated until the target."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from collapse import schedules
from collapse.errors import RequestError
from collapse.masks import check_fit, gather, keep_count, kept, kept_by_layer, total
from collapse.models import Masks, check_finite
from collapse.options import Pruning, check_iterations
from collapse.problem import Problem
from collapse.pruning import allocations
from collapse.pruning.engines import Engine, fastest, named
from collapse.pruning.precision import iterations_of, precision
from collapse.pruning.result import PathsExhaustedError, Pruned, Step
from collapse.pruning.steps import Goal, Start
from collapse.scores import SCORES, Batch, ScoreInputs, Scores, about, mode_of


def prune(
    model: nn.Module | Problem,
    batches: Sequence[Batch] = (),
    options: Pruning | None = None,
    *,
    compression: float | None = None,
    keep: int | None = None,
    masks: Masks | None = None,
    on_step: Callable[[Step], bool] | None = None,
    engine: str | Engine = fastest,
) -> Pruned:
    """Prune a network; the model itself is never changed (see ``masks.apply``).

    Args:
        model: a network, or a ``Problem`` that also says its batches, output and loss.
        batches: pairs of inputs and targets for the scores; SynFlow takes the shape only.
        options: pruner, iterations, schedule, scope or allocation, mode, seed.
        compression: total / kept to reach; either this or ``keep``.
        keep: the number of parameters to keep.
        masks: start from these, pruned stays pruned; None keeps everything prunable, or what
            ``torch.nn.utils.prune`` has left of it.
        on_step: called after each iteration; True ends the pruning there.
        engine: the fastest that computes the same masks; ``"plain"`` is the definition
            (``pruning.steps``).

    Raises:
        RequestError: a target below 1 or above the number of survivors, a compression above
            ``N / L`` (``keep`` may go there), unknown names, a schedule that the scores do not
            support, an allocation that cannot keep so many, or anything that scoring raises.
        PathsExhaustedError: the certified schedule cannot get there.

    Example:
        >>> batches = load("digits").score_batches(samples_per_class=1)
        >>> pruned = prune(build("fc"), batches, Pruning("magnitude"), compression=100)
        >>> sum(pruned.steps[-1].kept_by_layer.values())  # of 348,200
        3482
    """
    problem, options = Problem.of(model, batches), Problem.options(options)
    about(options.pruner)  # an unknown one is said now
    check_iterations(options.iterations, None)
    if masks is None:
        masks = problem.start()
    else:
        check_fit(problem.model, masks)
    survivors = kept(masks)
    keep = target(total(masks), len(masks), survivors, compression, keep)
    goals = _goals(options, survivors, keep)
    if keep < survivors:
        check_finite(problem.model)
    choose = named(engine) if isinstance(engine, str) else engine
    start = replace(
        begin(problem, options, masks, keep), shares=_shares(problem, options, masks, keep)
    )
    chosen = choose(start)
    steps: list[Step] = []
    try:
        for step in chosen.steps(goals):
            steps.append(step)
            if on_step is not None and on_step(step):
                break
    except _NothingToCutError as end:
        raise PathsExhaustedError(chosen.pruned(steps), keep, *end.args) from None
    return replace(chosen.pruned(steps), notes=problem.notes)


def begin(problem: Problem, options: Pruning, masks: Masks, keep: int | None = None) -> Start:
    """What an engine starts from."""
    inputs = ScoreInputs(
        problem.batches,
        mode_of(options.pruner, options.mode) or "eval",
        problem.loss,
        problem.output,
        options.seed,
        dtype=precision(problem, options, total(masks), keep),
    )
    return Start(problem.model, options, masks, inputs)


def _shares(
    problem: Problem, options: Pruning, masks: Masks, keep: int
) -> Callable[[int], dict[str, int]] | None:
    """How many of each layer on the way to ``keep``, where an allocation says so."""
    if options.allocation is None:
        return None
    survivors = kept_by_layer(masks)
    if options.copied is None:
        shapes = {name: tuple(mask.shape) for name, mask in masks.items()}
        final = allocations.counts(options.allocation, shapes, keep, survivors)
    else:
        other = replace(
            options, pruner=options.copied, allocation=None, scope="global", iterations=None
        )
        final = kept_by_layer(prune(problem, options=other, keep=keep, masks=masks).masks)
    return allocations.towards(final, survivors)


class _NothingToCutError(Exception):
    """Each parameter that is left carries the whole of ``R``, or ``R`` is zero."""


def _goals(options: Pruning, survivors: int, keep: int) -> Iterator[tuple[int, Goal]]:
    """Iterations and how many each is to keep; those that would remove nothing are left out."""
    if options.schedule != "certified":
        counts = schedules.keep_counts(options.schedule, survivors, keep, iterations_of(options))
        before = (survivors, *counts)
        return ((i, count) for i, count in enumerate(counts, 1) if count < before[i - 1])
    if options.ranks != "global":
        raise RequestError(
            "the certified schedule ranks globally: expected --scope global and no --allocation"
        )
    if not about(options.pruner).certifies:
        fit = " or ".join(sorted(name for name in SCORES if about(name).certifies))
        raise RequestError(
            "the certified schedule needs positive, conserved scores of paths that stay as they "
            f"are: expected --pruner {fit}, got {options.pruner}"
        )
    return _certified(survivors, keep, options.pruner)


def _certified(survivors: int, keep: int, pruner: str) -> Iterator[tuple[int, Goal]]:
    """As many as the scores prove safe, until ``keep`` are left (DESIGN 4.13)."""
    left = survivors

    def goal(scores: Scores, masks: Masks) -> int:
        nonlocal left
        if scores.total is None:
            raise RequestError(
                f"pruner '{pruner}' certifies, but tells no R: expected Scores(…, total=R)"
            )
        if left < survivors and not scores.total > 0:  # outside the theory a path can go
            raise _NothingToCutError("no input→output path is left")
        ascending = np.sort(gather(scores, masks).cpu().numpy())
        count = max(keep, schedules.certified(ascending, scores.total))
        if count == left:
            raise _NothingToCutError
        left = count
        return count

    for iteration in itertools.count(1):
        if left <= keep:
            return
        yield iteration, goal


def target(
    total: int,
    layers: int,
    survivors: int,
    compression: float | None = None,
    keep: int | None = None,
) -> int:
    """The number to keep, from a compression or itself.

    Raises:
        RequestError: below 1, above the number of survivors, or beyond the maximal compression.
    """
    if (compression is None) == (keep is None):
        raise RequestError("expected either a compression or a number to keep")
    if keep is None:
        assert compression is not None
        keep = keep_count(total, compression)
        if compression > total / layers * (1 + 1e-9):  # as printed below
            raise RequestError(
                f"compression {compression:g} is above the maximum: {total} parameters in "
                f"{layers} layers allow at most {total / layers:.10g}"
            )
    if not isinstance(keep, numbers.Integral):
        raise RequestError(f"keep: expected a whole number, got {keep!r}")
    if survivors == 0:
        raise RequestError("the masks to start from keep nothing: expected at least one survivor")
    if not 1 <= keep <= survivors:
        raise RequestError(
            f"expected to keep between 1 and {survivors} parameters, got {keep}"
            + (f" (compression {compression:g})" if compression is not None else "")
            + (
                f": the masks to start from are at compression {total / survivors:.6g} already"
                if survivors < total and keep > survivors
                else ""
            )
        )
    return keep
