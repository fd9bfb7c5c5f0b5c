"""Which numbers to keep a search tests, one after another, from what it has found so far.

Collapse is not monotone in compression for an iterative pruner, so bisection finds *a* boundary,
and a scan looks for collapses below it and for survivals above it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from collapse.errors import RequestError

# The scan keeps this factor more parameters from one compression to the next.
SCAN_FACTOR = 2**0.5


def check_search(scan: int, tolerance: float) -> None:
    """Raise RequestError for fewer than no further compressions, or less than no tolerance."""
    if scan < 0:
        raise RequestError(f"scan: expected 0 or more, got {scan}")
    if not 0 <= tolerance < float("inf"):
        raise RequestError(f"tolerance: expected a share of 0 or more, got {tolerance}")


class Verdict(NamedTuple):
    """What a pruning to some number of parameters says to a search.

    Attributes:
        survives: no layer collapsed.
        connected: a path from the input to the output is left; None where that was not asked for.
        whole: no fewer could live: one weight a layer, and each of them does.
    """

    survives: bool
    connected: bool | None
    whole: bool


# The answers that a search can get, the one first that ends it soonest.
_ANSWERS = Verdict(True, True, True), Verdict(False, True, False), Verdict(False, False, False)


class Found(NamedTuple):
    """Where a search has ended.

    Attributes:
        tested: the numbers to keep that it asked for.
        connected_kept: the fewest that leave a path; None if that was not looked for.
    """

    tested: list[int]
    connected_kept: int | None


class _UntestedError(Exception):
    """What a search asks next is not known yet."""

    def __init__(self, keep: int) -> None:
        super().__init__(keep)
        self.keep = keep


@dataclass(frozen=True)
class Course:
    """The search for one pruner on one network.

    Attributes:
        total: parameters before pruning.
        least: the maximum, which is tested first: one parameter a layer, or the fewest that an
            allocation can keep.
        scan: how many further compressions are tested on each side of the boundary.
        tolerance: end bisection where the boundary is known to within this share.
        paths: whether to look how far a path is left, too.

    Example:
        >>> course = Course(total=16, least=2, scan=0, tolerance=0.0, paths=False)
        >>> course.ahead({}, 3)  # the maximum; the middle, should that collapse; and the next
        [2, 6, 3]
        >>> known = {keep: Verdict(keep >= 5, None, False) for keep in (2, 6, 3, 4, 5)}
        >>> course.found(known).tested
        [2, 6, 3, 4, 5]
    """

    total: int
    least: int
    scan: int
    tolerance: float
    paths: bool

    def ahead(self, known: Mapping[int, Verdict], count: int) -> list[int]:
        """What is to be tested next, and then, whatever is found: up to ``count`` numbers.

        The first has to be tested; each of the others only if an answer comes out as supposed.
        None: the search has ended.
        """
        numbers: list[int] = []
        suppositions = deque([dict(known)])
        while suppositions and len(numbers) < count:
            supposed = suppositions.popleft()
            try:
                self.found(supposed)
            except _UntestedError as untested:
                keep = untested.keep
                if keep not in numbers:
                    numbers.append(keep)
                    suppositions.extend({**supposed, keep: answer} for answer in _ANSWERS)
        return numbers

    def expected(self, known: Mapping[int, Verdict]) -> int:
        """How many numbers are tested in all, about."""
        first = known.get(self.least)
        if first is None or first.survives:
            return 1 + self.scan
        share = max(self.tolerance, 1 / self.total)
        halvings = math.ceil(math.log2(max(2.0, math.log(self.total / self.least) / share)))
        bisections = 2 if self.paths and not first.connected else 1
        return 1 + 2 * self.scan + bisections * halvings

    def found(self, known: Mapping[int, Verdict]) -> Found:
        """The whole search, from what is known: the maximum, bisection, the scan, bisection for
        a path.
        """
        total, least = self.total, self.least
        tested: dict[int, Verdict] = {}

        def test(keep: int) -> Verdict:
            if keep >= total:
                return Verdict(True, True, True)
            if keep not in known:
                raise _UntestedError(keep)
            return tested.setdefault(keep, known[keep])

        bisected(lambda keep: test(keep).survives, least, total, self.tolerance)
        critical = min((keep for keep in tested if tested[keep].survives), default=total)
        below = [round(critical * SCAN_FACTOR**i) for i in range(1, self.scan + 1)]
        above = [round(critical / SCAN_FACTOR**i) for i in range(1, self.scan + 1)]
        # The lowest compression first: where the maximum is reached with every weight alive,
        # nothing better can be found, and the first collapse that is seen is the lowest of them.
        best = tested.get(least)
        perfect = best is not None and best.survives and best.whole
        for keep in [*sorted(below, reverse=True), *above]:
            if least < keep < total and not test(keep).survives and perfect:
                break
        connected = None
        if self.paths:
            connected = bisected(
                lambda keep: test(keep).connected is True, least, total, self.tolerance
            )
            # Of an iterative pruner a path may be left below a number that leaves none.
            connected = min([connected, *(keep for keep in tested if tested[keep].connected)])
        return Found(list(tested), connected)


def bisected(holds: Callable[[int], bool], low: int, high: int, tolerance: float = 0.0) -> int:
    """The smallest number in ``[low, high]`` that holds, by bisection on a logarithmic scale.

    It must hold at ``high`` (which is not tested) and, once it holds, hold from there on. With a
    tolerance, a number that holds and is at most this share too high.
    """
    if holds(low):
        return low
    while high - low > max(1, tolerance * low):
        middle = min(max(round((low * high) ** 0.5), low + 1), high - 1)
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
