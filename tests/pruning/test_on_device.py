"""Iterations in a queue, as on a GPU: the masks of the loop, and no question in between."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from collapse import masks as masking
from collapse import pruning, scores
from collapse.critical import critical_compression
from collapse.errors import RequestError
from collapse.models import build
from collapse.options import Pruning
from collapse.pruning import Pruned, Step, on_device, prune
from tests.zoo import Case


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The CPU in the place of a GPU; the goals of each queue."""
    goals = []
    queue = on_device.queue

    def watched(*args):
        goals.append(args[-1])
        return queue(*args)

    monkeypatch.setattr(pruning, "QUEUEING", ("cpu",))
    monkeypatch.setattr(on_device, "queue", watched)
    return goals


def _same(one: Pruned, other: Pruned) -> None:
    for name, mask in other.masks.items():
        assert torch.equal(one.masks[name], mask)
        assert torch.equal(one.ranked[name], other.ranked[name])
        torch.testing.assert_close(one.scores[name], other.scores[name])
    assert len(one.steps) == len(other.steps)
    for a, b in zip(one.steps, other.steps, strict=True):
        assert (a.iteration, a.kept, a.kept_by_layer, a.precision, a.exponent, a.density) == (
            *(b.iteration, b.kept, b.kept_by_layer, b.precision, b.exponent, b.density),
        )
        assert a.cut == pytest.approx(b.cut, rel=1e-6)
        assert a.pruned_mass == pytest.approx(b.pruned_mass, rel=1e-5)


@pytest.mark.parametrize("iterations", [1, 8, 500])
def test_the_masks_of_the_loop(iterations: int, case: Case, request: pytest.FixtureRequest) -> None:
    options = Pruning(iterations=iterations)
    keep = max(1, masking.total(masking.dense(case.model)) // 9)
    loop = prune(case.model, case.batches, options, keep=keep)
    goals = request.getfixturevalue("queued")
    _same(prune(case.model, case.batches, options, keep=keep), loop)
    assert goals[0][-1] == keep
    assert len(goals[0]) == len(loop.steps)


def test_ties_go_as_in_the_loop(request: pytest.FixtureRequest) -> None:
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 10))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    batches = [(torch.zeros(1, 30), torch.zeros(1, dtype=torch.long))]
    start = prune(model, batches, Pruning(pruner="random", iterations=1), compression=2).masks
    loop = prune(model, batches, Pruning(iterations=7), keep=37, masks=start)
    request.getfixturevalue("queued")
    _same(prune(model, batches, Pruning(iterations=7), keep=37, masks=start), loop)


def test_a_queue_is_left_at_the_step_that_ends_it(
    case: Case, request: pytest.FixtureRequest
) -> None:
    def third(step: Step) -> bool:
        return step.iteration >= 3

    keep = masking.total(masking.dense(case.model)) // 5
    loop = prune(case.model, case.batches, Pruning(iterations=8), keep=keep, on_step=third)
    request.getfixturevalue("queued")
    _same(prune(case.model, case.batches, Pruning(iterations=8), keep=keep, on_step=third), loop)


def test_critical_compression_is_the_loops(request: pytest.FixtureRequest) -> None:
    model = build("fc", input_shape=(3, 8, 8), seed=0)
    batches = [(torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.long))]
    loop = critical_compression(model, batches, Pruning(iterations=5))
    goals = request.getfixturevalue("queued")
    assert critical_compression(model, batches, Pruning(iterations=5)) == loop
    assert len(goals) == loop.evaluations


@pytest.mark.parametrize("factor", [1e16, 1e-12])
def test_out_of_range_is_left_to_the_loop(
    factor: float, mlp: nn.Module, request: pytest.FixtureRequest
) -> None:
    """R is beyond float32 there: the loop takes float64."""
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.mul_(factor)
    batches = [(torch.zeros(1, 6), torch.zeros(1, dtype=torch.long))]
    loop = prune(mlp, batches, compression=5)
    goals = request.getfixturevalue("queued")
    ours = prune(mlp, batches, compression=5)
    assert goals
    assert {step.precision for step in ours.steps} == {"float64"}
    _same(ours, loop)


def test_what_is_not_queued(mlp: nn.Module, queued: list[list[int]]) -> None:
    batches = [(torch.zeros(1, 6), torch.zeros(1, dtype=torch.long))]
    prune(mlp, batches, Pruning(scope="layer"), compression=5)
    prune(mlp, batches, Pruning(schedule="certified"), keep=3)
    prune(mlp, batches, Pruning(pruner="magnitude"), compression=5)
    prune(mlp, batches, compression=1)
    assert not queued
    with pytest.raises(RequestError, match="expected at least one batch"):
        prune(mlp, [], compression=5)
    with torch.no_grad():
        mlp[0].weight[0, 0] = float("nan")
    with pytest.raises(RequestError, match="0.weight"):
        prune(mlp, batches, compression=5)


class _Questions(TorchFunctionMode):
    """What a GPU would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", str(func))
        indexed = name in ("__getitem__", "__setitem__") and any(
            isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in args[1:]
        )
        waits = {"item", "tolist", "nonzero", "masked_select", "bincount", "unique", "cpu", "numpy"}
        number = isinstance(result, int | float | bool) and name.startswith("__")
        if indexed or name in waits or (number and name in ("__bool__", "__float__", "__int__")):
            self.asked.append(name)
        return result


def test_nothing_is_asked_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("vgg11_bn", input_shape=(3, 32, 32)).eval()
    masks = masking.dense(model)
    total = masking.total(masks)
    inputs = scores.ScoreInputs([(torch.zeros(1, 3, 32, 32), torch.zeros(1))])
    with torch.enable_grad(), _Questions() as questions:
        on_device._launch(model, masks, inputs, total, [total // 2, total // 4])
    assert questions.asked == []
    with _Questions() as questions:  # which does notice
        assert bool(torch.ones(1) > 0)
        float(torch.ones(1))
        torch.ones(2)[torch.ones(2) > 0]
    assert len(questions.asked) == 3
