"""The search for an iterative pruner: a pruning to each number that its course asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from collapse import masks as masking
from collapse.critical.course import Course, Verdict, bisected
from collapse.critical.family import Family
from collapse.critical.result import Critical, Point, fewest_alive
from collapse.options import Pruning
from collapse.pruning import Plain, Pruned, Start, Step, iterations_of
from collapse.scores import about


@dataclass(frozen=True)
class Trial:
    """One pruning of a search.

    Attributes:
        point: what it left.
        iterations: how many it took.
    """

    point: Point
    iterations: int

    @property
    def verdict(self) -> Verdict:
        """What it says to the search."""
        point = self.point
        whole = point.alive is None or point.effective_total == len(point.kept)
        return Verdict(point.collapsed is None, point.connected, whole)


def is_searched(options: Pruning) -> bool:
    """Whether no closed form and no single run tells the answer."""
    once = iterations_of(options) == 1 and options.allocation is None
    return options.schedule != "certified" and not once


def course(family: Family, scan: int, tolerance: float) -> Course:
    """What the search for this pruner tests first, and then."""
    total, layers = masking.kept(family.start), len(family.start)
    return Course(
        total,
        least=layers if family.reachable(layers) else bisected(family.reachable, layers, total),
        scan=scan,
        tolerance=tolerance,
        paths=family.effective and family.start_paths[1],
    )


def searched(family: Family, scan: int, tolerance: float) -> Critical:
    """Test the maximum first, bisect if it collapses, then scan around the answer."""
    search, trials = course(family, scan, tolerance), dict[int, Trial]()
    while numbers := search.ahead(known := verdicts(trials), 1):
        done, expected = len(known), search.expected(known)

        def watch(text: str, share: float, done: int = done, expected: int = expected) -> None:
            family.watch(text, (done + share) / max(expected, done + 1))

        trials[numbers[0]] = trial(replace(family, watch=watch), numbers[0])
    return concluded(family, search, trials)


def verdicts(trials: Mapping[int, Trial]) -> dict[int, Verdict]:
    """What each says to the search."""
    return {keep: one.verdict for keep, one in trials.items()}


def trial(family: Family, keep: int) -> Trial:
    """Prune to this number, and see what is left."""
    result, layer = _until_cut(family, keep)
    return Trial(family.point(result.masks, result.scores, layer), result.steps[-1].iteration)


def concluded(family: Family, course: Course, trials: Mapping[int, Trial]) -> Critical:
    """What a search that has ended says; trials that it did not ask for do not count."""
    found = course.found(verdicts(trials))
    tested = {keep: trials[keep] for keep in sorted(found.tested, reverse=True)}
    points = [one.point for one in tested.values()]
    points = points or [family.point(family.start, family.score())]  # there was nothing to prune
    survived = [keep for keep, one in tested.items() if one.point.collapsed is None]
    collapsed = [keep for keep in tested if keep not in survived]
    critical = min(survived, default=course.total)
    layer = tested[collapsed[0]].point.collapsed if collapsed else None
    return Critical(
        sizes=masking.sizes(family.start),
        critical_kept=critical,
        collapse_kept=collapsed[0] if collapsed else None,
        first_collapsed_layer=layer,
        collapsed_is_cut=None if layer is None else family.is_cut(layer),
        connected_kept=found.connected_kept,
        effective_kept=fewest_alive(points),
        evidence="maximum reached" if critical == course.least else "search",
        evaluations=len(tested),
        iterations=max((one.iterations for one in tested.values()), default=0),
        points=points,
    )


def _until_cut(family: Family, keep: int) -> tuple[Pruned, str | None]:
    """Prune, ending where a cut layer is empty: pruned stays pruned, so the verdict is known there.

    The masks are then completed to the number to keep with the last scores, because a point of a
    table is a compression that was asked for. Where pruned weights regrow an empty layer may fill
    again, so that only the last masks have a verdict.

    Returns:
        What was reached, and the first layer to have collapsed.
    """
    engines: list[Plain] = []
    first: str | None = None
    regrows = about(family.options.pruner).regrows

    def watched(start: Start) -> Plain:
        engines.append(family.engine(start))
        return engines[0]

    def cut(step: Step) -> bool:
        nonlocal first
        if regrows:
            return False
        empty = [layer for layer, kept in step.kept_by_layer.items() if kept == 0]
        if empty and first is None:
            # Layers that are ranked by themselves are emptied by their share, not by their scores.
            globally = family.options.ranks == "global"
            first = masking.first_to_collapse(*engines[0].ranking())[0] if globally else empty[0]
        return (not family.effective and bool(empty)) or any(map(family.is_cut, empty))

    result = family.prune(keep, cut, watched)
    if regrows and masking.collapsed(result.masks):
        first, _ = masking.first_to_collapse(result.scores, result.ranked)
    if masking.kept(result.masks) > keep:
        scope = engines[0].start.scope(keep)
        masks = masking.select(result.scores, keep, masks=result.masks, scope=scope)
        result = replace(result, masks=masks)
    return result, first
