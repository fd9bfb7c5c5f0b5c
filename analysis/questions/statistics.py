"""Means with their intervals, or without one where there are too few seeds."""

from __future__ import annotations

from collections.abc import Iterable
from math import nan
from typing import NamedTuple

LEVEL = 0.95


# Two runs have a Student interval too, thirteen times as wide as their spread: it says nothing.
FEWEST = 3


class Estimate(NamedTuple):
    """A mean over seeds.

    Attributes:
        estimate: in the unit of the values; NaN without any.
        low, high: ends of the interval; NaN where there are too few seeds for one.
        level: of the interval.
        seeds: how many there are.
    """

    estimate: float
    low: float
    high: float
    level: float
    seeds: int


def mean(values: Iterable[float], level: float = LEVEL) -> Estimate:
    """The mean of independent values with Student's interval (scipy's ``ttest_1samp``)."""
    import numpy as np
    from scipy import stats

    found = np.asarray(list(values), float)
    found = found[np.isfinite(found)]
    middle = float(found.mean()) if len(found) else nan
    if len(found) < FEWEST:
        return Estimate(middle, nan, nan, level, len(found))
    if np.ptp(found) == 0:  # scipy warns that the variance is none
        return Estimate(found[0], found[0], found[0], level, len(found))
    interval = stats.ttest_1samp(found, 0.0).confidence_interval(level)
    return Estimate(middle, float(interval.low), float(interval.high), level, len(found))


def together(comparisons: int) -> float:
    """The level of each of so many intervals for all to hold at once with ``LEVEL``: Bonferroni."""
    return 1 - (1 - LEVEL) / comparisons


def chance_overlap(
    kept: Iterable[int], other: Iterable[int], sizes: Iterable[int]
) -> tuple[float, float]:
    """How many weights two masks share by chance: mean and standard deviation.

    Each layer keeps as many weights as it does, anywhere: hypergeometric, summed over layers.

    Args:
        kept, other: weights kept by either mask, layer by layer.
        sizes: parameters, layer by layer.
    """
    from scipy import stats

    layers = [stats.hypergeom(n, a, b) for a, b, n in zip(kept, other, sizes, strict=True)]
    return (
        float(sum(layer.mean() for layer in layers)),
        float(sum(layer.var() for layer in layers)) ** 0.5,
    )
