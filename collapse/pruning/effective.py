"""Prune to an effective density: as many *living* weights as asked for, whatever is kept besides.

After Vysogorets & Kempe 2023, "Connectivity matters: neural network pruning through the lens of
effective sparsity": a kept weight on no input→output path of kept weights is no weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from collapse.connectivity import living
from collapse.errors import RequestError
from collapse.masks import kept, total
from collapse.models import Masks
from collapse.options import Pruning
from collapse.problem import Problem
from collapse.pruning.engines import fastest
from collapse.pruning.loop import prune
from collapse.pruning.result import Pruned
from collapse.pruning.steps import Plain, Start
from collapse.scores import Batch, Scores


@dataclass(frozen=True)
class Effective:
    """Masks of an effective density, with the nominal one beside it.

    Attributes:
        pruned: masks, steps and scores, as from ``prune``.
        parameters: prunable.
        kept: of them.
        alive: of the kept.
        evaluations: prunings that were run.
    """

    pruned: Pruned = field(repr=False)
    parameters: int
    kept: int
    alive: int
    evaluations: int

    @property
    def nominal_density(self) -> float:
        """kept / total."""
        return self.kept / self.parameters

    @property
    def effective_density(self) -> float:
        """The same, of living weights."""
        return self.alive / self.parameters


def prune_to_effective(
    model: nn.Module | Problem,
    batches: Sequence[Batch] = (),
    options: Pruning | None = None,
    *,
    density: float,
    masks: Masks | None = None,
    tolerance: float = 0.01,
    watch: Callable[[int], None] | None = None,
) -> Effective:
    """Prune so far that this share of all parameters is kept and alive, by bisection.

    What is looked for is the fewest weights to keep of which enough live. Pruning further may kill
    many at once, and a pruner in several iterations need not be monotone: the first number within
    the tolerance above is taken.

    Args:
        model, batches, masks: see ``prune``.
        options: any pruner, schedule, scope or allocation but the certified schedule.
        density: living / total, above 0 and at most 1.
        tolerance: how much more than asked may live, as a share of it.
        watch: called with each number to keep, for progress displays.

    Raises:
        RequestError: a density that is out of range, that the network has not to begin with, or
            that the pruner jumps over (the densities on both sides are given); no batch for the
            input's shape; anything that pruning raises.

    Example:
        >>> found = prune_to_effective(build("fc"), load("digits").score_batches(1),
        ...                            Pruning("random"), density=0.01)
        >>> found.effective_density < found.nominal_density
        True
    """
    if not 0 < density <= 1:
        raise RequestError(f"effective density: expected above 0 and at most 1, got {density:g}")
    problem, options = Problem.of(model, batches), Problem.options(options)
    if options.schedule == "certified":
        raise RequestError("--effective-density prunes on a linear or exponential schedule")
    start = problem.start() if masks is None else masks
    size, goal = total(start), math.ceil(density * total(start) * (1 - 1e-12))
    shared: dict[Any, Scores] = {}
    evaluations = 0

    def engine(begun: Start) -> Plain:
        return fastest(replace(begun, first=shared))

    def at(keep: int) -> Effective:
        nonlocal evaluations
        evaluations += 1
        if watch is not None:
            watch(keep)
        pruned = prune(problem, options=options, keep=keep, masks=start, engine=engine)
        alive = living(problem.model, pruned.masks, problem.example, output=problem.output)
        return Effective(pruned, size, keep, kept(alive), evaluations)

    best = at(kept(start))
    if best.alive < goal:
        raise RequestError(
            f"effective density {density:g} cannot be reached: expected at most "
            f"{best.effective_density:.6g}, for {best.kept - best.alive:,} of {best.kept:,} "
            "weights are dead before any is pruned"
        )
    below, too_few = goal - 1, None  # what is kept is never less than what lives
    while best.alive > goal * (1 + tolerance) and best.kept - below > 1:
        middle = min(max(round(math.sqrt(max(below, 1) * best.kept)), below + 1), best.kept - 1)
        found = at(middle)
        if found.alive >= goal:
            best = found
        else:
            below, too_few = middle, found
    if best.alive > goal * (1 + tolerance) and best.alive - goal > 1:
        beside = 0.0 if too_few is None else too_few.effective_density
        raise RequestError(
            f"effective density {density:g} cannot be reached: {options.pruner} jumps from "
            f"{best.effective_density:.6g} (keeping {best.kept:,}) to {beside:.6g} (keeping "
            f"{below:,})"
        )
    return replace(best, evaluations=evaluations)
