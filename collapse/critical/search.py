"""Maximal and critical compression: how far can a pruner go before a layer collapses?

Command line: ``python -m collapse.critical --model vgg16``.

One-shot pruners have a closed form, the certified schedule (DESIGN 4.13) is one run that passes
every compression, and any other iterative pruner is searched: its collapse is not monotone in
compression, so that a search tests and does not prove, unless it reaches the maximum.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from collapse import masks as masking
from collapse.critical.certificate import theorem_3_holds
from collapse.critical.course import bisected, check_search
from collapse.critical.family import Family
from collapse.critical.prefixes import Prefixes, fewest
from collapse.critical.result import Critical, fewest_alive
from collapse.critical.trials import is_searched, searched
from collapse.errors import RequestError
from collapse.models import Masks
from collapse.options import TOLERANCE, Pruning
from collapse.problem import Problem
from collapse.processes import Update, unwatched
from collapse.pruning import (
    PathsExhaustedError,
    Pruned,
    Step,
    prune,
)
from collapse.scores import Batch


def critical_compression(
    model: nn.Module | Problem,
    batches: Sequence[Batch] = (),
    options: Pruning | None = None,
    *,
    scan: int = 8,
    tolerance: float = TOLERANCE,
    effective: bool = True,
    watch: Update | None = None,
) -> Critical:
    """The largest compression at which a pruner leaves no layer of a network collapsed.

    Args:
        model: a network, or a ``Problem`` that also says its batches, output and loss.
        batches: inputs and targets; one batch at least, for the input's shape.
        options: pruner, iterations, schedule, scope, mode, seed.
        scan: for iterative pruners, how many further compressions are tested for a collapse.
        tolerance: for iterative pruners, end the search where the boundary is known to within
            this share of the compression (0.01: one per cent). Without it to more digits than a
            table shows, and exactly below 10,000 kept parameters; with 0 exactly.
        effective: also find the effective critical compression, and how far the network stays
            connected.
        watch: called with a word on what is being tested and the share of the search that is done,
            about, for progress displays.

    Raises:
        RequestError: anything that scoring and pruning raise.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> _ = nn.init.constant_(network[0].weight, 2), nn.init.constant_(network[2].weight, 1)
        >>> batches = [(torch.ones(2, 4), torch.tensor([0, 1]))]
        >>> found = critical_compression(network, batches, Pruning(pruner="magnitude"))
        >>> found.first_collapsed_layer, found.critical_kept  # the 32 larger weights and one more
        ('2.weight', 33)
        >>> found.evidence, round(found.critical_compression, 2), found.maximal_compression
        ('closed form', 1.45, 24.0)
    """
    check_search(scan, tolerance)
    problem, options = Problem.of(model, batches), Problem.options(options)
    _ = problem.example  # there is one
    family = Family(problem, options, effective, watch or unwatched)
    for layer in masking.collapsed(family.start):
        raise RequestError(f"layer '{layer}' has already collapsed: expected weights in each")
    if options.schedule == "certified":
        found = _certified(family)
    elif not is_searched(options):
        found = _one_shot(family)
    else:
        found = searched(family, scan, tolerance)
    return with_notes(found, problem)


def with_notes(found: Critical, problem: Problem) -> Critical:
    """What was found, with what a reader has to know of it."""
    zero = problem.all_zero(*filter(None, [found.first_collapsed_layer]))
    return replace(found, notes=tuple(note for note in (zero, *problem.notes) if note))


# --- One-shot pruners: a closed form ----------------------------------------------------------


def _one_shot(family: Family) -> Critical:
    """Score once; every number kept is then a prefix of one ranking."""
    start = family.start
    total = masking.kept(start)
    scores = family.score()
    scope = family.options.scope

    ranked = Prefixes(scores, start)

    @functools.lru_cache(maxsize=1)
    def at(keep: int) -> Masks:
        if scope == "global" or keep >= total:
            return ranked.masks(keep)
        return masking.select(scores, keep, masks=start, scope=scope)

    @functools.lru_cache(maxsize=1)  # both searches begin at the same number
    def living(keep: int) -> tuple[Masks, bool]:
        family.watch(f"living weights among {keep:,}", 0.5)
        return family.living(at(keep))

    def least(enough: Callable[[Masks, bool], bool], low: int, high: int) -> int:
        def look(keep: int) -> tuple[bool, Masks]:
            alive, arrives = living(keep)
            return enough(alive, arrives), alive

        if scope == "layer":  # no one order of all weights
            return bisected(lambda keep: look(keep)[0], low, high)
        return fewest(look, ranked, low, high)

    if scope == "global":
        layer, rank = masking.first_to_collapse(scores, start)
    else:
        sizes = [mask.numel() for mask in start.values()]
        rank = bisected(lambda keep: min(masking.apportion(sizes, keep)) > 0, len(sizes), total)
        layer = list(start)[masking.apportion(sizes, rank - 1).index(0)]
    collapse = rank - 1 if rank > 1 else None

    looked_at = {min(2 * rank, total), rank, *([collapse] if collapse else []), -(-rank // 2)}
    is_cut = family.is_cut(layer) if collapse is not None else None
    effective_kept = connected_kept = None
    high = total
    if family.effective and min(family.start_paths[0].values()) > 0:
        high = least(lambda alive, _: not masking.collapsed(alive), rank, total)
        effective_kept = masking.kept(living(high)[0])
        looked_at.add(high)
    if family.effective and family.start_paths[1]:
        # Below the rank a cut layer is empty, and nothing arrives. A layer that lives has a path.
        low = min(rank if is_cut else len(start), high)
        done = effective_kept is not None and high > low and not living(high - 1)[1]
        connected_kept = high if done else least(lambda _, arrives: arrives, low, high)
        looked_at.add(connected_kept)
    points = []
    for keep in sorted(looked_at, reverse=True):
        masks = at(keep)
        points.append(family.point(masks, scores, layer if keep < rank else None))
    return Critical(
        sizes=masking.sizes(start),
        critical_kept=rank,
        collapse_kept=collapse,
        first_collapsed_layer=layer if collapse is not None else None,
        collapsed_is_cut=is_cut,
        connected_kept=connected_kept,
        effective_kept=effective_kept,
        evidence="closed form",
        evaluations=1,
        iterations=1,
        points=points,
    )


def _certified(family: Family) -> Critical:
    """Prune to one parameter a layer; the run passes every number to keep on its way.

    A target only shortens the last step, so a lower compression's masks are this run's. On a
    chain no layer falls (Theorem 3). Elsewhere a branch may, and the step in which it does says
    at which number, exactly.
    """
    start = family.start
    first = family.score()
    proved = theorem_3_holds(family.problem, first, family.is_cut)

    def on_step(step: Step) -> bool:
        return min(step.kept_by_layer.values()) == 0

    try:
        result = family.prune(len(start), on_step, family.engine)
    except PathsExhaustedError as end:
        result = end.pruned
    masks, points = result.masks, []
    collapse = layer = None
    if masking.collapsed(masks):
        layer, rank = masking.first_to_collapse(result.scores, result.ranked)
        collapse = rank - 1
        after = masking.select(result.scores, collapse, masks=result.ranked)
        points = [family.point(after, result.scores, layer)]
        masks = masking.select(result.scores, rank, masks=result.ranked)
    points = [family.point(masks, result.scores), *points]
    return Critical(
        sizes=masking.sizes(start),
        critical_kept=masking.kept(masks),
        collapse_kept=collapse,
        first_collapsed_layer=layer,
        collapsed_is_cut=None if layer is None else family.is_cut(layer),
        connected_kept=_certified_path(family, result),
        effective_kept=fewest_alive(points),
        evidence="certified schedule" if proved else "one run",
        evaluations=1,
        iterations=len(result.steps),
        points=points,
    )


def _certified_path(family: Family, reached: Pruned) -> int | None:
    """How few the certified schedule comes to with a path left: it goes on where a branch fell."""
    if not family.effective:
        return None
    if masking.collapsed(reached.masks) and family.paths(reached.masks)[1]:
        reached = _to_the_end(family, len(reached.masks), reached.masks)
    if family.paths(reached.masks)[1]:
        return masking.kept(reached.masks)

    if not family.start_paths[1]:
        return None

    def arrives(keep: int) -> bool:  # Theorem 3 does not hold here: look where the path went
        masks = _to_the_end(family, keep).masks
        return masking.kept(masks) == keep and family.paths(masks)[1]

    return bisected(arrives, len(family.start), masking.kept(family.start))


def _to_the_end(family: Family, keep: int, masks: Masks | None = None) -> Pruned:
    """The certified schedule, as far as it comes."""
    try:
        return prune(family.problem, options=family.options, keep=keep, masks=masks)
    except PathsExhaustedError as end:
        return end.pruned
