"""Schedules end exactly at the target, never rise, and follow their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collapse.errors import RequestError
from collapse.schedules import CERTIFIED_MARGIN, SCHEDULES, certified, keep_counts


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 10**9), st.integers(1, 300), st.data())
def test_counts_fall_to_the_target(
    schedule: str, total: int, iterations: int, data: st.DataObject
) -> None:
    keep = data.draw(st.integers(1, total))
    counts = keep_counts(schedule, total, keep, iterations)
    assert len(counts) == iterations
    assert counts[-1] == keep
    assert all(b <= a for a, b in zip([total, *counts], counts, strict=False))


def test_formulas_by_hand() -> None:
    # 10,000 to 100 in two iterations: halfway is the geometric or the arithmetic mean.
    assert keep_counts("exponential", 10_000, 100, 2) == [1000, 100]
    assert keep_counts("linear", 10_000, 100, 2) == [5050, 100]
    assert keep_counts("linear", 10, 10, 3) == [10, 10, 10]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(1e-3, 1e7))
def test_certified_removes_the_largest_set_below_the_cut(values: list[float], cut: float) -> None:
    ascending = np.sort(np.array(values))
    keep = certified(ascending, cut)
    limit = cut * (1 - CERTIFIED_MARGIN)
    removed = len(ascending) - keep
    assert ascending[:removed].sum() < limit
    if keep:
        assert np.cumsum(ascending)[removed] >= limit


def test_wrong_schedules() -> None:
    with pytest.raises(RequestError, match="unknown schedule 'exponentail'; nearest: exponential"):
        keep_counts("exponentail", 10, 5, 2)
    with pytest.raises(RequestError, match="iterations: expected at least 1, got 0"):
        keep_counts("linear", 10, 5, 0)
    with pytest.raises(RequestError, match="expected R > 0, got 0"):
        certified(np.zeros(3), 0.0)
