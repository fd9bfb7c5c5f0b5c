"""How many parameters are kept after each iteration on the way to the target."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from collapse.errors import RequestError, unknown

# The certified schedule removes less than the whole cut by this share, so that rounding in
# float32 scores (relative errors near 1e-6) cannot make a whole cut look smaller than it is. It
# never stops the schedule: a layer of two weights or more has one with at most half the cut.
CERTIFIED_MARGIN = 1e-3


def linear(density: float, progress: float) -> float:
    """Density falls by the same amount in each iteration: ``1 − (1 − density) · progress``."""
    return 1.0 - (1.0 - density) * progress


def exponential(density: float, progress: float) -> float:
    """Density falls by the same factor in each iteration: ``density ** progress``.

    Tanaka et al. 2020, algorithm 1, with ``progress = iteration / iterations``.
    """
    return float(density**progress)


SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "linear": linear,
    "exponential": exponential,
}


def keep_counts(schedule: str, total: int, keep: int, iterations: int) -> list[int]:
    """The number kept after each iteration; non-increasing, and exactly ``keep`` at the end.

    Args:
        schedule: a name in ``SCHEDULES``.
        total: parameters before the first iteration.
        keep: parameters after the last.
        iterations: at least 1.

    Raises:
        RequestError: unknown schedule, or fewer than one iteration.
    """
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, [*SCHEDULES, "certified"])
    if iterations < 1:
        raise RequestError(f"iterations: expected at least 1, got {iterations}")
    density = keep / total
    counts = [
        int(np.ceil(total * SCHEDULES[schedule](density, i / iterations)))
        for i in range(1, iterations)
    ]
    return [max(keep, min(total, count)) for count in counts] + [keep]


def certified(ascending: np.ndarray, cut: float) -> int:
    """How many survivors the certified schedule keeps: all but the largest set with mass below R.

    Theorem 3 of Tanaka et al. 2020 turned into a rule (DESIGN 4.13): removing lowest scores of
    total mass ``M < R`` leaves ``R(after) ≥ R − M > 0``, so an input→output path survives.

    Args:
        ascending: the surviving scores, positive or zero, in ascending order.
        cut: ``R``, the size of every cut.

    Raises:
        RequestError: ``R`` is zero (no path is left to preserve) or negative (Theorem 3 says
            nothing of such a network).
    """
    if not cut > 0:
        why = ", as only homogeneous networks have it" if cut < 0 else ""
        raise RequestError(
            f"the certified schedule needs a living path: expected R > 0{why}, got {cut:.6g}"
        )
    mass = np.cumsum(ascending, dtype=np.float64)
    removable = int(np.searchsorted(mass, cut * (1 - CERTIFIED_MARGIN), side="left"))
    return len(ascending) - removable
