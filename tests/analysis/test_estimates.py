"""How long trainings will take, and what a point tells."""

from __future__ import annotations

import math
from functools import partial

import pytest

from analysis.sweeps import estimates
from collapse.data import load
from collapse.options import Pruning, Rewinding, Setup, Training
from collapse.runs import Experiment


def test_ends_come_first_then_the_middle_of_the_widest_gap() -> None:
    assert estimates.gaps(5) == [4, 1, 2, 1, 4]
    assert estimates.gaps(0) == []
    assert estimates.gaps(1) == [1]
    for count in (2, 3, 9, 25):
        filled = estimates.gaps(count)
        assert filled[0] == filled[-1] == count - 1
        assert all(1 <= gap < count - 1 for gap in filled[1:-1])


def test_shares_lie_between_those_measured() -> None:
    for pruner, known in estimates.SHARES.items():
        for compression, share in known:
            assert estimates.share_of(pruner, compression) == pytest.approx(share)
        assert estimates.share_of(pruner, 1e9) == known[-1][1]
    shares = dict(estimates.SHARES["synflow"])
    between = math.sqrt(shares[10] * shares[100])
    assert estimates.share_of("synflow", math.sqrt(1000)) == pytest.approx(between)
    assert estimates.share_of("magnitude", 1000) == 1


def test_an_estimate_counts_epochs_images_and_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "_speed", lambda setup, settings: (1.0, 0.1))
    test_images = len(load("digits", "test").labels)
    short = Training(epochs=2, train_samples=200)
    of = partial(Experiment, Setup("fc"), Pruning("synflow"), short)
    dense = 2 * (200 + 0.1 * test_images)
    assert estimates.seconds(of(Rewinding(levels=0)), "cpu") == pytest.approx(dense)
    pruned, share = of(Rewinding(levels=0), 100.0), estimates.share_of("synflow", 100)
    assert estimates.seconds(pruned, "cpu") == pytest.approx(share * dense)
    assert estimates.seconds(pruned, "cuda") == pytest.approx(dense)
    rounds = of(Rewinding(levels=2), 100.0)
    assert estimates.seconds(rounds, "cpu") == pytest.approx(3 * dense)


def test_a_step_is_timed_as_it_will_be_trained() -> None:
    network = Experiment(Setup("conv"), training=Training(epochs=1), rewinding=Rewinding(levels=0))
    trained, tested = estimates._speed(network.setup, network.settings())
    assert 0 < trained < 60
    assert 0 < tested < 60
