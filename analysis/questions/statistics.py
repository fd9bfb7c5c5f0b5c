"""Means and differences with their intervals, or the word that there are too few seeds for one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


# Two runs have a Student interval too, thirteen times as wide as their spread: it says nothing.
FEWEST = 3


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: in the unit of the values; NaN without any.
        low, high: ends of the interval; NaN where there are too few seeds for one.
        seeds: how many there are.
        level: of the interval.
    """

    mean: float
    low: float
    high: float
    seeds: int
    level: float = LEVEL

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return bool(np.isfinite(self.low))

    @property
    def words(self) -> str:
        """For a table or a title: the mean and its interval, or that there is none."""
        if not self.seeds:
            return "not measured"
        interval = f"[{self.low:.3g}, {self.high:.3g}]" if self.known else too_few(self.seeds)
        return f"{self.mean:.3g} {interval}"


def too_few(seeds: int) -> str:
    """What stands in an interval's place."""
    return f"({seeds} {'seed' if seeds == 1 else 'seeds'}: too few for an interval)"


def mean(values: Iterable[float], level: float = LEVEL) -> Estimate:
    """The mean of independent values with Student's interval (scipy's ``ttest_1samp``)."""
    found = np.asarray(list(values), float)
    found = found[np.isfinite(found)]
    if len(found) < FEWEST:
        middle = float(found.mean()) if len(found) else np.nan
        return Estimate(middle, np.nan, np.nan, len(found), level)
    if np.ptp(found) == 0:  # scipy warns that the variance is none
        return Estimate(float(found[0]), float(found[0]), float(found[0]), len(found), level)
    interval = stats.ttest_1samp(found, 0.0).confidence_interval(level)
    return Estimate(
        float(found.mean()), float(interval.low), float(interval.high), len(found), level
    )


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
    layers = [stats.hypergeom(n, a, b) for a, b, n in zip(kept, other, sizes, strict=True)]
    return (
        float(sum(layer.mean() for layer in layers)),
        float(sum(layer.var() for layer in layers)) ** 0.5,
    )
