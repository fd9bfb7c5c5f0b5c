"""prune(): exact counts, pruned stays pruned, the trace, and Theorem 3."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from collapse import masks as masking
from collapse.connectivity import connected, living
from collapse.errors import RequestError
from collapse.models import build
from collapse.options import Pruning
from collapse.problem import Problem
from collapse.pruning import PathsExhaustedError, allocations, prune
from collapse.scores import ScoreInputs, score


@pytest.mark.parametrize("pruner", ["random", "magnitude", "synflow"])
def test_memory_format_changes_no_mask(pruner: str) -> None:
    """channels_last weights are strided, and ties (magnitude in bfloat16 has many) go by index."""
    model = build("resnet20").bfloat16()
    batch = [(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))]
    plain = prune(model, batch, Pruning(pruner=pruner, iterations=1), compression=20)
    strided = model.to(memory_format=torch.channels_last)
    again = prune(strided, batch, Pruning(pruner=pruner, iterations=1), compression=20)
    for name, mask in plain.masks.items():
        assert torch.equal(mask, again.masks[name])
        assert again.masks[name].is_contiguous()


@pytest.mark.parametrize("iterations", [1, 3])
def test_exact_count_among_millions_of_zero_scores(iterations: int) -> None:
    """On 32×32, torchvision's ResNet-18 ends in 1×1 maps: most deep kernels see padding only."""
    model = build("torchvision:resnet18")
    batch = [(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))]
    keep = 10_000_000  # more than have a score above zero, so zeros must be chosen among
    result = prune(model, batch, Pruning(iterations=iterations), keep=keep)
    zeros = sum(int((s == 0).sum()) for s in result.scores.values())
    assert zeros > 5_000_000
    assert masking.total(result.masks) - zeros < keep
    assert masking.kept(result.masks) == keep


def test_start_from_masks_and_compression(mlp: nn.Module) -> None:
    batches = [(torch.zeros(1, 6), torch.zeros(1, dtype=torch.long))]
    total = masking.total(masking.dense(mlp))
    first = prune(mlp, batches, Pruning(iterations=3), compression=2)
    assert masking.kept(first.masks) == math.ceil(total / 2)
    second = prune(mlp, batches, Pruning(iterations=3), compression=10, masks=first.masks)
    assert masking.kept(second.masks) == math.ceil(total / 10)
    assert all(bool((second.masks[n] <= first.masks[n]).all()) for n in first.masks)
    nothing = prune(mlp, batches, compression=1)
    assert nothing.steps == []
    assert masking.density(nothing.masks) == 1


def test_trace_has_a_row_an_iteration_and_layer(mlp: nn.Module) -> None:
    batches = [(torch.zeros(1, 6), torch.zeros(1, dtype=torch.long))]
    result = prune(mlp, batches, Pruning(iterations=5), compression=8)
    trace = result.trace()
    assert len(trace) == 5 * 3
    assert trace["layer_index"].tolist() == [1, 2, 3] * 5
    assert trace.groupby("iteration")["kept"].sum().tolist() == [s.kept for s in result.steps]
    ratio = trace["pruned_mass"] / trace["cut"]
    assert trace["prune_to_cut_ratio"].tolist() == pytest.approx(ratio.tolist())
    assert set(trace["precision"]) == {"float32"}


# --- Theorem 3: the certified schedule (DESIGN 4.13) --------------------------------------------


@pytest.mark.parametrize(("name", "seed"), [("fc", 0), ("fc", 1), ("vgg11_bn", 0)])
def test_certified_schedule_reaches_one_living_weight_a_layer(name: str, seed: int) -> None:
    model = build(name, seed=seed)
    batches = [(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))]
    layers = len(masking.dense(model))
    result = prune(model, batches, Pruning(schedule="certified"), keep=layers)
    for step in result.steps:
        assert step.pruned_mass < step.cut
        assert min(step.kept_by_layer.values()) >= 1
    assert set(masking.kept_by_layer(result.masks).values()) == {1}
    alive = living(model, result.masks, batches[0][0])
    assert all(torch.equal(alive[n], result.masks[n]) for n in alive)


def test_certified_schedule_keeps_a_path_with_residual_branches() -> None:
    model = build("resnet20")
    batches = [(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))]
    result = prune(model, batches, Pruning(schedule="certified"), keep=30)
    assert masking.kept(living(model, result.masks, batches[0][0])) > 0


def test_wrong_requests(mlp: nn.Module) -> None:
    batches = [(torch.zeros(1, 6), torch.zeros(1, dtype=torch.long))]

    def attempt(options: Pruning | None = None, **target: object) -> None:
        prune(mlp, batches, options, **target)

    with pytest.raises(RequestError, match="either a compression or a number to keep"):
        attempt()
    with pytest.raises(RequestError, match="expected a finite number from 1 up, got 0.5"):
        attempt(compression=0.5)
    with pytest.raises(RequestError, match="above the maximum: 125 parameters in 3 layers"):
        attempt(compression=60)
    with pytest.raises(RequestError, match="between 1 and 125 parameters, got 126"):
        attempt(keep=126)
    with pytest.raises(RequestError, match="unknown pruner 'snipp'; nearest: snip"):
        attempt(Pruning(pruner="snipp"), keep=10)
    with pytest.raises(RequestError, match="needs positive, conserved scores"):
        attempt(Pruning(pruner="magnitude", schedule="certified"), keep=10)
    with pytest.raises(RequestError, match="ranks globally"):
        attempt(Pruning(schedule="certified", scope="layer"), keep=10)
    with pytest.raises(PathsExhaustedError, match="ends at 3 parameters") as stop:
        attempt(Pruning(schedule="certified"), keep=2)
    assert masking.kept(stop.value.pruned.masks) == 3
    with pytest.raises(RequestError, match="forward failed on an input of shape"):
        prune(mlp, [(torch.zeros(1, 5), torch.zeros(1))], keep=10)


def test_layers_count_from_one(mlp: nn.Module) -> None:
    trace = prune(mlp, [(torch.zeros(1, 6), None)], Pruning(iterations=1), compression=2).trace()
    assert trace["layer_index"].tolist() == [1, 2, 3]


def test_random_scores_are_drawn_anew_in_each_iteration(mlp: nn.Module) -> None:
    result = prune(mlp, [], Pruning("random", iterations=2, seed=4), keep=9)
    inputs = ScoreInputs(seed=4)
    first, second = (
        score(mlp, "random", result.masks, replace(inputs, iteration=i)) for i in (1, 2)
    )
    assert all(torch.equal(result.scores[name], second[name]) for name in second)
    assert not any(torch.equal(first[name], second[name]) for name in second)


def test_densities_are_of_the_whole_network_whatever_it_starts_from(mlp: nn.Module) -> None:
    start = prune(mlp, [], Pruning("magnitude"), keep=50).masks
    steps = prune(mlp, [], Pruning("magnitude"), keep=25, masks=start).steps
    assert [step.density for step in steps] == [25 / 125]


def test_masks_that_keep_less_than_is_asked_for_say_so(mlp: nn.Module) -> None:
    start = prune(mlp, [], Pruning("magnitude"), keep=5).masks
    with pytest.raises(RequestError, match=r"to start from are at compression 25 already$"):
        prune(mlp, [], Pruning("magnitude"), compression=10, masks=start)
    with pytest.raises(RequestError, match="keep: expected a whole number, got '5'"):
        prune(mlp, [], Pruning("magnitude"), keep="5")
    with pytest.raises(RequestError, match="at least 1, a whole number, got 1.5"):
        prune(mlp, [], Pruning("magnitude", iterations=1.5), keep=5)


def test_certified_says_that_R_is_negative() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.LayerNorm(3), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0] * 4, [1.0] * 4, [0.1] * 4]))
        model[3].weight.copy_(torch.tensor([[0.0, 0.0, 1.0]]))
    with pytest.raises(RequestError, match="R > 0, as only homogeneous networks have it, got -"):
        prune(model, [(torch.zeros(1, 4), None)], Pruning(schedule="certified"), keep=2)


@pytest.mark.parametrize("pruner", ["px", "synflow_l2_halved", "snip"])
def test_the_certified_schedule_takes_those_that_theorem_3_is_of(pruner: str) -> None:
    """PX's gates move, half of SynFlow-L2 is conserved nowhere: both cut a network so."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    batches = [(torch.randn(4, 4), torch.tensor([0, 1, 0, 1]))]
    said = f"expected --pruner synflow or synflow_l2, got {pruner}"
    with pytest.raises(RequestError, match=said):
        prune(model, batches, Pruning(pruner, schedule="certified"), keep=2)
    found = prune(model, batches, Pruning("synflow_l2", schedule="certified"), keep=2)
    assert connected(model, found.masks, batches[0][0])


def test_batches_beside_a_problem_are_refused(mlp: nn.Module) -> None:
    problem = Problem(mlp, [(torch.zeros(1, 6), None)])
    with pytest.raises(RequestError, match="batches: expected none beside a Problem"):
        prune(problem, [(torch.zeros(1, 6), None)], keep=5)


def test_an_allocation_of_nothing() -> None:
    with pytest.raises(RequestError, match="shapes are empty: expected a weight a layer"):
        allocations.densities("uniform", {}, 0)
