"""How much of a search is done, and how it is told."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from collapse import cli
from collapse.critical import critical_compression, expected
from collapse.critical.work import towards
from collapse.models import build
from collapse.options import Pruning
from collapse.problem import Problem


def test_work_is_the_sum_over_the_iterations_of_a_schedule() -> None:
    """Against a sum of what each iteration stores: its closed form is the limit of many."""
    keep, iterations = 1e-6, 20_000
    step = -math.log(keep) / iterations
    costs = (min(1, 6 * math.exp(-i * step)) + 0.05 for i in range(iterations))
    assert towards(keep) == pytest.approx(step * sum(costs), rel=1e-3)
    assert towards(1.0) == 0
    assert towards(0.0) < math.inf


def test_a_search_tells_a_share_that_grows_to_the_whole() -> None:
    model = build("fc", input_shape=(3, 8, 8))
    batches = [(torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.long))]
    told: list[tuple[str, float]] = []
    found = critical_compression(
        model, batches, Pruning(iterations=20), scan=2, watch=lambda *word: told.append(word)
    )
    shares = [share for _, share in told]
    assert 40 < len(told) <= 20 * found.evaluations  # a pruning may end sooner
    assert all(one <= next_ for one, next_ in itertools.pairwise(shares))
    assert 0 < shares[0] < 0.1
    assert 0.9 < shares[-1] <= 1  # a pruning ends where the network is cut
    assert told[0][0] == f"keeping {found.layers}, iteration 1"


def test_what_rows_cost_beside_each_other() -> None:
    batches = [(torch.zeros(100, 3, 32, 32), torch.zeros(100, dtype=torch.long))]
    problem = Problem(build("vgg11"), batches)
    cost = {
        (p.pruner, p.schedule): expected(problem, p, 8)
        for p in (
            *(Pruning(pruner=name) for name in ("magnitude", "snip", "grasp", "synflow")),
            Pruning(schedule="certified"),
        )
    }
    order = sorted(cost, key=lambda plan: cost[plan])
    assert [name for name, _ in order] == ["magnitude", "snip", "synflow", "grasp", "synflow"]


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_a_log_has_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = _Clock()
    monkeypatch.setattr(cli, "time", clock)
    with cli.progress(10, quiet=False) as update:
        for done in range(2, 11):  # two were done before
            update("pruning", done)
            clock.now += 25
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "pruning: 50% done, left: 2 min",
        "pruning: 80% done, left: 50 s",
    ]
    spans = [cli.duration(seconds) for seconds in (99, 5999, 6000, 359_999, 86400 * 1234)]
    assert spans == ["99 s", "100 min", "1.7 h", "100.0 h", "1,234 days"]
    with cli.progress(10, quiet=True) as update:
        for done in range(5):
            update("pruning", done)
            clock.now += 100
    assert capsys.readouterr().err == ""
