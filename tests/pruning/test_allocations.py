"""Allocations: each solves its equation, adds up, only shrinks, and says what is in its way."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from torch import nn

from collapse import masks as masking
from collapse.critical import critical_compression
from collapse.errors import RequestError
from collapse.options import ALLOCATIONS, Pruning, Setup
from collapse.problem import settings_row
from collapse.pruning import counts, densities, prune
from collapse.pruning.allocations import towards
from collapse.runs import Experiment

# A chain: convolutions small to large, a linear layer, a head.
SHAPES = {
    "first": (8, 3, 3, 3),
    "second": (32, 8, 3, 3),
    "third": (64, 32, 3, 3),
    "hidden": (128, 64),
    "head": (10, 128),
}
SIZES = {name: math.prod(shape) for name, shape in SHAPES.items()}
TOTAL = sum(SIZES.values())
HALF = round(0.5 * TOTAL)


def _kept(found: dict[str, float]) -> float:
    return sum(found[name] * SIZES[name] for name in SIZES)


@pytest.mark.parametrize("density", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_densities_solve_the_equation(allocation: str, density: float) -> None:
    keep = round(density * TOTAL)
    found = densities(allocation, SHAPES, keep)
    assert _kept(found) == pytest.approx(keep, rel=1e-9)
    assert all(0 <= value <= 1 for value in found.values())
    whole = counts(allocation, SHAPES, keep)
    assert sum(whole.values()) == keep
    assert all(abs(whole[name] - found[name] * SIZES[name]) < 1 for name in SIZES)


def _epsilon(found: dict[str, float], raw: dict[str, float]) -> None:
    """One ``ε`` for all layers below 1, and one that would take the others to 1."""
    below = [found[name] / raw[name] for name in raw if found[name] < 1]
    assert max(below) == pytest.approx(min(below), rel=1e-9)
    assert all(below[0] * raw[name] >= 1 - 1e-9 for name in raw if found[name] == 1)


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.95])
def test_erdos_renyi_as_their_papers_have_it(density: float) -> None:
    erk = {name: sum(shape) / math.prod(shape) for name, shape in SHAPES.items()}
    er = {name: (shape[0] + shape[1]) / (shape[0] * shape[1]) for name, shape in SHAPES.items()}
    keep = round(density * TOTAL)
    _epsilon(densities("erk", SHAPES, keep), erk)
    _epsilon(densities("er", SHAPES, keep), er)


def test_ideal_gas_has_one_force() -> None:
    """``1/d − 1 = F n``: compression beyond 1 in proportion to the size."""
    found = densities("igq", SHAPES, HALF)
    forces = [(1 / found[name] - 1) / SIZES[name] for name in SIZES]
    assert max(forces) == pytest.approx(min(forces), rel=1e-9)


def test_uniform_plus_keeps_the_first_convolution_and_a_fifth_of_the_head() -> None:
    found = densities("uniform+", SHAPES, round(0.05 * TOTAL))
    assert (found["first"], found["head"]) == (1.0, 0.2)
    assert found["second"] == pytest.approx(found["hidden"])
    assert found["second"] < 0.05
    more = densities("uniform+", SHAPES, HALF)
    assert more["head"] == pytest.approx(more["hidden"])


def test_smart_ratio_is_quadratic_in_depth() -> None:
    found = densities("smart-ratio", SHAPES, round(0.05 * TOTAL))
    assert found["head"] == 0.3
    depth = [5, 4, 3, 2]
    ratios = [found[n] / (k * k + k) for n, k in zip(list(SHAPES)[:4], depth, strict=True)]
    assert max(ratios) == pytest.approx(min(ratios), rel=1e-9)


def test_erk_agrees_with_the_published_densities() -> None:
    """Hoang et al. 2023 drew each weight by itself: theirs lie around ours as binomials do."""
    path = Path(__file__).parents[3] / "shared/published/ramanujan_resnet34_cifar10.csv"
    if not path.exists():
        pytest.skip("no folder shared/published beside the checkout")
    rows = pd.read_csv(path).query("pruner == 'ERK'")
    with torch.device("meta"):  # shapes are all that is needed
        model = torchvision.models.resnet34(num_classes=10)
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if p.ndim > 1}
    total = sum(map(math.prod, shapes.values()))
    for target, part in rows.groupby("target_density"):
        found = densities("erk", shapes, round(float(str(target)) * total))
        ours = np.array([found[f"{layer}.weight"] for layer in part["layer"]])
        size = part["parameters"].to_numpy()
        z = (part["density"].to_numpy() - ours) / np.sqrt((ours * (1 - ours) + 1e-12) / size)
        assert np.abs(z).max() < 4.5
        assert 0.7 < z[ours < 1].std() < 1.3


# --- In a pruning -----------------------------------------------------------------------------


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.zeros(1, 6), torch.zeros(1, dtype=torch.long))]


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize(("pruner", "iterations"), [("random", 1), ("synflow", 4)])
def test_the_score_selects_within_each_layer(
    mlp: nn.Module, batches, allocation: str, pruner: str, iterations: int
) -> None:
    options = Pruning(pruner, iterations=iterations, allocation=allocation)
    result = prune(mlp, batches, options, keep=40)
    shapes = {name: tuple(mask.shape) for name, mask in result.masks.items()}
    kept = masking.kept_by_layer(result.masks)
    assert kept == counts(allocation, shapes, 40)
    for name, mask in result.masks.items():  # the highest that the last iteration ranked
        ranked = result.scores[name][result.ranked[name]].sort(descending=True).values
        assert torch.equal(result.scores[name][mask].sort(descending=True).values,
                           ranked[: kept[name]])  # fmt: skip
    steps = [list(step.kept_by_layer.values()) for step in result.steps]
    assert all((np.diff(column) <= 0).all() for column in zip(*steps, strict=True))


def test_uniform_is_the_layer_scope(mlp: nn.Module, batches) -> None:
    for options in (Pruning("magnitude"), Pruning("synflow", iterations=1)):
        layer = Pruning(options.pruner, iterations=1, scope="layer")
        uniform = Pruning(options.pruner, iterations=1, allocation="uniform")
        one, other = (prune(mlp, batches, o, keep=17).masks for o in (layer, uniform))
        assert all(torch.equal(one[name], other[name]) for name in one)
        found = [critical_compression(mlp, batches, o) for o in (layer, uniform)]
        assert found[0].critical_kept == found[1].critical_kept


def test_densities_of_another_pruner(mlp: nn.Module, batches) -> None:
    other = prune(mlp, batches, Pruning("magnitude"), keep=20).masks
    options = Pruning("random", iterations=3, allocation="like:magnitude")
    like = prune(mlp, batches, options, keep=20).masks
    assert masking.kept_by_layer(like) == masking.kept_by_layer(other)
    assert not all(torch.equal(like[name], other[name]) for name in like)


def test_critical_compression_goes_as_far_as_an_allocation_can(batches) -> None:
    """uniform+ never has less than a whole first layer and a fifth of the head."""
    model = nn.Sequential(nn.Conv2d(2, 3, 2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(3, 5))
    inputs = [(torch.zeros(1, 2, 2, 2), torch.zeros(1, dtype=torch.long))]
    found = critical_compression(model, inputs, Pruning("magnitude", allocation="uniform+"))
    assert (found.critical_kept, found.evidence) == (24 + 3, "maximum reached")


def test_towards_arrives_and_only_shrinks() -> None:
    at = towards({"a": 0, "b": 3, "c": 5}, {"a": 7, "b": 3, "c": 40})
    before = {"a": 7, "b": 3, "c": 40}
    for keep in range(50, 7, -1):
        now = at(keep)
        assert sum(now.values()) == keep
        assert all(now[name] <= before[name] for name in now)
        before = now
    assert at(8) == {"a": 0, "b": 3, "c": 5}


def test_names_of_runs_and_rows() -> None:
    setup = Setup("fc")
    plain, erk = (
        Experiment(setup, Pruning("random", allocation=name), compression=10.0)
        for name in (None, "erk")
    )
    assert "allocation" not in plain.config()["pruning"]
    assert erk.config()["pruning"]["allocation"] == "erk"
    assert erk.config()["pruning"]["scope"] == "layer"
    labelled = Experiment(setup, Pruning("random", allocation="like:snip"), compression=10.0)
    assert labelled.config()["pruning"]["samples_per_class"] == 10
    assert settings_row(setup, (3, 32, 32), erk.pruning, 1)["allocation"] == "erk"


def test_what_cannot_be_reached_is_said(mlp: nn.Module, batches) -> None:
    def attempt(keep: int, **options: object) -> None:
        prune(mlp, batches, Pruning("magnitude", **options), keep=keep)

    with pytest.raises(
        RequestError, match=r"unknown allocation 'erc'; nearest: er, erk \(or like:"
    ):
        attempt(9, allocation="erc")
    with pytest.raises(RequestError, match="unknown pruner 'snyflow'; nearest: synflow"):
        attempt(9, allocation="like:snyflow")
    with pytest.raises(RequestError, match="has no formula: it prunes by that pruner"):
        densities("like:synflow", SHAPES, 9)
    with pytest.raises(RequestError, match=f"between 0 and {TOTAL} parameters, got -1"):
        densities("erk", SHAPES, -1)
    with pytest.raises(RequestError, match="ranks globally: .* and no --allocation"):
        prune(mlp, batches, Pruning(schedule="certified", allocation="erk"), keep=9)
    with pytest.raises(
        RequestError,
        match=r"uniform\+ cannot keep 400 of .*full: 'first', 'head' at 0.2, which is 472 already$",
    ):
        densities("uniform+", SHAPES, 400)
    with pytest.raises(
        RequestError,
        match=r"smart-ratio cannot keep .*full: 'first', 'second', 'third', 'hidden', 'head' at "
        r"0.3, which is 29,528 at most$",
    ):
        densities("smart-ratio", SHAPES, TOTAL)
    start = prune(mlp, batches, Pruning("magnitude"), keep=30).masks
    start["0.weight"].zero_()
    with pytest.raises(
        RequestError, match=r"uniform cannot keep .* too few are left in '0.weight'"
    ):
        prune(mlp, batches, Pruning("magnitude", allocation="uniform"), keep=9, masks=start)
    scores = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0])}
    assert masking.select(scores, 2, scope={"a": 1, "b": 1})["a"].tolist() == [True, False]
    with pytest.raises(RequestError, match="a number for each layer, 2 in all, got 3 for 2 of 2"):
        masking.select(scores, 2, scope={"a": 2, "b": 1})
