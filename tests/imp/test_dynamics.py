"""The score dynamics against their definitions, and the law that they show (DESIGN 4.12)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from collapse import masks as masking
from collapse.conservation import layer_statistics
from collapse.data import load
from collapse.imp import EVERY, Dynamics, conserving_units
from collapse.options import Training
from collapse.scores import ScoreInputs, score
from collapse.train import Trainer
from collapse.train.recipes import resolve
from tests.imp.watched import FULL_BATCH, perceptron, vectors, watched
from tests.train.test_train import SETTINGS, _convolutions, _drawn


def test_rows_are_mean_squares_with_their_fit() -> None:
    model = _convolutions()
    rows, _ = watched(model, SETTINGS, 2, _drawn())
    assert [row["epoch"] for row in rows] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    squares = {n: p.detach().double() ** 2 for n, p in model.named_parameters() if p.ndim > 1}
    slope, r = layer_statistics(squares)
    for row, (name, square) in zip(rows[-3:], squares.items(), strict=True):
        assert (row["layer"], row["parameters"]) == (name, square.numel())
        assert row["score_sum"] == pytest.approx(float(square.sum()), rel=1e-12)
        assert row["score_mean"] == pytest.approx(float(square.mean()), rel=1e-12)
        assert (row["slope"], row["r"]) == pytest.approx((slope, r), rel=1e-9)
    assert [row["saliency_mean"] for row in rows[:3]] == [None] * 3  # no gradient was taken yet


def test_saliency_of_a_full_batch_is_snip() -> None:
    """With one step an epoch, mean |θ ⊙ g| is SNIP's score of the weights before that step."""
    model, dataset = perceptron(), vectors()
    batch = (dataset.images.double(), dataset.labels)
    inputs = ScoreInputs([batch], "train", nn.functional.cross_entropy, None, 0)
    snip = score(model, "snip", masking.dense(model), inputs)
    rows, _ = watched(model, FULL_BATCH, 1)
    for row, scores in zip(rows[-3:], snip.values(), strict=True):
        assert row["saliency_mean"] == pytest.approx(float(scores.mean()), rel=1e-9)


def test_saliency_is_the_mean_of_every_eighth_step() -> None:
    dataset, model = _drawn(200, (2, 4, 4)), nn.Sequential(nn.Flatten(), nn.Linear(32, 3))
    settings = replace(SETTINGS, train_batch_size=8)  # 25 steps: 0, 8, 16 and 24 are measured
    trainer = Trainer(model, dataset, dataset, settings)
    watch = Dynamics(trainer, masking.dense(model), [], 0)
    seen = []
    step = watch.step

    def spy(index: int) -> None:
        weight = trainer.parameters["1.weight"]
        seen.append(float((weight * weight.grad).abs().mean().detach()))
        step(index)

    watch.step = spy  # type: ignore[method-assign]  # to see what it sees
    _, numbers = trainer.epoch(0, 0, watch)
    (row,), _ = watch.observe(numbers, 1)
    assert len(seen) == 25
    assert row["saliency_mean"] == pytest.approx(np.mean(seen[::EVERY]), rel=1e-5)


def test_units_behind_batchnorm_are_counted_from_its_own_parameters() -> None:
    model = _convolutions()
    trainer = Trainer(model, _drawn(), _drawn(), SETTINGS)
    groups = conserving_units(trainer)
    found = {tuple(n for n, _ in c.inside): tuple(use.weight for use in c.outside) for c in groups}
    assert found == {
        ("1.weight", "1.bias"): ("4.weight",),
        ("4.weight", "4.bias"): ("8.weight",),
    }
    _, table = watched(_convolutions(), SETTINGS, 0, _drawn())
    weights = dict(_convolutions().named_parameters())
    by_hand = (
        (weights["4.weight"] ** 2).sum((1, 2, 3))
        + weights["4.bias"] ** 2
        - (weights["8.weight"] ** 2).reshape(3, 8, 4).sum((0, 2))
    )
    values = table[table["place"] == table["place"].unique()[1]]["value"]
    assert values.to_numpy() == pytest.approx(by_hand.detach().double().numpy(), rel=1e-5)


def test_drift_is_of_first_order_in_the_learning_rate() -> None:
    """Over the same time, gradient descent leaves the conserved quantity by O(η)."""
    rates = [0.02, 0.01, 0.005, 0.0025]
    drifts = []
    for rate in rates:
        _, table = watched(perceptron(), replace(FULL_BATCH, lr=rate), round(0.4 / rate))
        last = table[table["epoch"] == table["epoch"].max()]
        drifts.append(float(last["drift"].abs().mean()))
    order = np.polyfit(np.log(rates), np.log(drifts), 1)[0]
    assert order == pytest.approx(1, abs=0.05)


def test_the_quantity_is_conserved_while_the_weights_move() -> None:
    _, table = watched(perceptron(), replace(FULL_BATCH, lr=0.002), 300)
    model = perceptron()
    trainer = Trainer(model, vectors(), vectors(), replace(FULL_BATCH, lr=0.002))
    before = trainer.snapshot()
    for epoch in range(300):
        trainer.epoch(0, epoch)
    moved = sum(float((p.detach() - before[n]).square().sum()) for n, p in model.named_parameters())
    last = table[table["epoch"] == 300]
    assert float(last["drift"].abs().max()) < 0.01 * moved


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_weight_decay_lets_it_decay_exponentially(momentum: float) -> None:
    """``c(t) = c(0) exp(−2 λ t)``, with momentum in the time ``η / (1 − momentum)`` a step."""
    settings = replace(FULL_BATCH, lr=0.002, momentum=momentum, weight_decay=0.5)
    _, table = watched(perceptron(), settings, 200)
    first, last = (table[table["epoch"] == epoch] for epoch in (0, 200))
    decay = math.exp(-2 * 0.5 * 200 * 0.002 / (1 - momentum))
    assert decay < 0.7
    assert last["expected"].to_numpy() == pytest.approx(first["value"].to_numpy() * decay)
    scale = float(first["value"].abs().mean())
    assert float(last["drift"].abs().mean()) < 0.02 * scale


def test_time_is_that_of_the_epochs_own_learning_rate() -> None:
    """A drop between two epochs shows in the expected value from the second on, not before."""
    settings = replace(FULL_BATCH, lr=0.02, weight_decay=0.5, lr_drops=(1,), lr_drop_rate=0.1)
    _, table = watched(perceptron(), settings, 2)
    first, *later = (table[table["epoch"] == epoch] for epoch in range(3))
    for rows, time in zip(later, (0.02, 0.02 + 0.002), strict=True):
        expected = first["value"].to_numpy() * math.exp(-2 * 0.5 * time)
        assert rows["expected"].to_numpy() == pytest.approx(expected, rel=1e-12)


def test_a_collapsed_layer_has_no_fit_and_stops_nothing() -> None:
    model = _convolutions()
    nn.init.zeros_(model[8].weight)
    rows, _ = watched(model, replace(SETTINGS, lr=1e-30), 0, _drawn())
    assert {(row["slope"], row["r"]) for row in rows} == {(None, None)}


def test_what_is_beside_a_frozen_layer_is_not_conserved() -> None:
    data = load("gaussian", input_shape=(4,), classes=2)
    model = nn.Sequential(
        *(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 2))
    )
    settings = resolve(Training(epochs=1), "", "gaussian")
    assert len(conserving_units(Trainer(model, data, data, settings))) == 2
    model[4].weight.requires_grad_(False)
    groups = conserving_units(Trainer(model, data, data, settings))
    assert [sorted(group.weights) for group in groups] == [["0.weight", "2.weight"]]
