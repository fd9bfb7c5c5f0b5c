"""Intervals: their coverage, how many hold at once, and too few seeds for any."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from analysis.questions import answers, low_compression, statistics
from tests.drawn_tables import outcomes_table


def test_intervals_cover_as_often_as_they_say() -> None:
    """A thousand samples of five: 95 % of the intervals hold the mean, up to four deviations."""
    draw = np.random.default_rng(0)
    intervals = [statistics.mean(draw.normal(3, 2, 5)) for _ in range(1000)]
    share = np.mean([one.low <= 3 <= one.high for one in intervals])
    assert abs(share - 0.95) < 4 * (0.95 * 0.05 / 1000) ** 0.5
    by_hand = stats.t.interval(0.95, 3, loc=2.5, scale=np.std([1, 2, 3, 4], ddof=1) / 2)
    found = statistics.mean([1, 2, 3, 4])
    assert (found.low, found.high) == pytest.approx(by_hand)


def test_several_intervals_hold_at_once() -> None:
    """Five comparisons of nothing with nothing: all five hold in at least 95 % of the families."""
    draw = np.random.default_rng(1)
    level = statistics.together(5)
    families = [
        all(abs(one.estimate) <= one.high - one.estimate for one in family)
        for family in ([statistics.mean(x, level) for x in draw.normal(0, 1, (5, 6))]
                       for _ in range(300))
    ]  # fmt: skip
    assert np.mean(families) > 0.95 - 4 * (0.95 * 0.05 / 300) ** 0.5


def test_too_few_seeds_have_no_interval() -> None:
    for values, middle in (([], float("nan")), ([4.0], 4.0), ([1.0, 3.0], 2.0)):
        found = statistics.mean(values)
        np.testing.assert_equal(tuple(found[:3]), (middle, float("nan"), float("nan")))
        assert found.seeds == len(values)
    assert statistics.mean([2.0, 2.0, 2.0])[:3] == (2.0, 2.0, 2.0)
    two = low_compression.answer(outcomes_table().query("seed < 2"))
    assert set(two["seeds"]) == {2}
    assert two["low"].isna().all()
    assert two["high"].isna().all()


def test_chance_overlap_is_that_of_random_masks() -> None:
    draw = torch.Generator().manual_seed(0)
    sizes, kept, other = (50, 200), (20, 10), (5, 100)
    shared = []
    for _ in range(3000):
        shared.append(0)
        for n, a, b in zip(sizes, kept, other, strict=True):
            ours = set(torch.randperm(n, generator=draw)[:a].tolist())
            shared[-1] += len(ours & set(torch.randperm(n, generator=draw)[:b].tolist()))
    mean, deviation = statistics.chance_overlap(kept, other, sizes)
    assert mean == 20 * 5 / 50 + 10 * 100 / 200
    assert np.mean(shared) == pytest.approx(mean, abs=4 * deviation / 3000**0.5)
    assert np.std(shared) == pytest.approx(deviation, rel=0.06)


def _outcomes(dense: dict[str, float]) -> pd.DataFrame:
    """Two seeds of each network: dense, and one and two points below at compression 2."""
    return pd.DataFrame(
        {
            "model": model,
            "dataset": "d",
            "pruner": pruner,
            "seed": seed,
            "compression": compression,
            "best_top1": top1 - below,
        }
        for model, top1 in dense.items()
        for seed in (0, 1)
        for pruner, compression, below in [("none", 1, 0), ("snip", 2, 1), ("synflow", 2, 2)]
    )


def test_each_network_is_compared_with_its_own_dense_one() -> None:
    found = answers.from_dense(_outcomes({"a": 90.0, "b": 50.0}), "best_top1")
    assert found.groupby(["model", "pruner"])["difference"].mean().tolist() == [-1, -2, -1, -2]
    assert set(found["comparisons"]) == {2}


def test_a_table_that_answers_nothing_yet_has_no_answers() -> None:
    table = _outcomes({"a": 90.0})
    for part in (table[table["compression"] == 1], table.iloc[:0]):
        assert answers.differences(part, "best_top1", "q", "pruner", "dense") == []
        assert answers.differences(part, "best_top1", "q", "pruner", "none") == []


def test_functions_of_one_name_in_two_files_are_two_pruners() -> None:
    table = _outcomes({"a": 90.0}).replace({"pruner": {"snip": "s1:score", "synflow": "s2:score"}})
    found = answers.collect(answers.accuracy(table))
    assert found["of"].tolist() == ["none", "s1:score", "s2:score"]
