"""Batches in parts: the same scores, and whole wherever samples meet."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse import masks as masking
from collapse.scores import ScoreInputs, fast, score
from collapse.scores.fast.microbatches import microbatches as split
from tests import reference
from tests.zoo import Case


def _data(samples: int = 150, *shape: int) -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(samples, *(shape or (6,)), dtype=torch.float64)
    return [(x[:100], torch.arange(100) % 3), (x[100:], torch.arange(samples - 100) % 3)]


def _sizes(model: nn.Module, inputs: ScoreInputs) -> list[int]:
    return [len(y) for _, y in split(model, inputs, torch.float64)]


def test_parts_are_the_batches_in_order(mlp: nn.Module) -> None:
    batches = _data()
    parts = split(mlp.double(), ScoreInputs(batches), torch.float64)
    assert [len(y) for _, y in parts] == [64, 36, 50]
    assert torch.equal(torch.cat([x for x, _ in parts]), torch.cat([x for x, _ in batches]))
    assert torch.equal(torch.cat([y for _, y in parts]), torch.cat([y for _, y in batches]))


@pytest.mark.parametrize("pruner", ["snip", "grasp"])
def test_agrees_with_naive_twin(pruner: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of network, in more parts than one, and the same under the switch."""
    case.model.double()
    batches = [(x.double().repeat(13, *[1] * (x.ndim - 1)), y.repeat(13)) for x, y in case.batches]
    batches = [(x + 0.1 * torch.randn_like(x), y) for x, y in batches]
    masks = masking.dense(case.model)
    seen: list[int] = []
    forward = type(case.model).forward

    def watched(self: nn.Module, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():  # not the look at a few samples
            seen.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(type(case.model), "forward", watched)
    inputs = ScoreInputs(batches, mode="eval")
    ours = score(case.model, pruner, masks, inputs)
    passes = 1 if pruner == "snip" else 2
    assert seen == [64, 14, 52] * passes
    seen.clear()
    with fast.off():
        whole = score(case.model, pruner, masks, inputs)
    assert seen == [78, 52] * passes
    naive = reference.SCORES[pruner](case.model, masks, batches, "eval")
    for name in masks:
        torch.testing.assert_close(ours[name], naive[name], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(whole[name], naive[name], rtol=1e-9, atol=1e-12)
    keep = masking.kept(masks) // 2
    chosen, expected = masking.select(ours, keep), reference.select(naive, keep)
    assert all(torch.equal(chosen[name], expected[name]) for name in masks)


class _Meeting(nn.Module):
    """Its samples meet in the forward."""

    def __init__(self, meet: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3, dtype=torch.float64)
        self.meet = meet

    def forward(self, x: Tensor) -> Tensor:
        return self.meet(self.linear(x))


def test_whole_where_samples_meet(mlp: nn.Module) -> None:
    mlp.double()
    inputs = ScoreInputs(_data())
    whole = [100, 50]
    assert _sizes(_Meeting(lambda x: x), inputs) == [64, 36, 50]
    assert _sizes(_Meeting(lambda x: x - x.mean(0)), inputs) == whole
    assert _sizes(_Meeting(lambda x: x / x.norm()), inputs) == whole
    for meet in (
        lambda x: x.cumsum(0),
        lambda x: x.roll(2, 0),
        lambda x: torch.cat([x[: len(x) // 2], x[len(x) // 2 :] - x[len(x) // 2 :].mean(0)]),
        lambda x: x / x.abs().max(),
        lambda x: x * len(x),
        lambda x: x.view(-1, 4, 3).mean(1, keepdim=True).expand(-1, 4, 3).reshape(-1, 3),
    ):
        assert _sizes(_Meeting(meet), inputs) == whole
    statistics = nn.BatchNorm1d(3, track_running_stats=False, dtype=torch.float64).eval()
    assert _sizes(_Meeting(statistics), inputs) == whole
    assert _sizes(mlp, ScoreInputs(inputs.batches, mode="train")) == whole
    own = ScoreInputs(inputs.batches, loss=lambda x, y: F.cross_entropy(x, y))
    assert _sizes(mlp, own) == whole
    ignored = [(x, torch.where(y == 0, -100, y)) for x, y in inputs.batches]
    assert _sizes(_Meeting(lambda x: x), ScoreInputs(ignored)) == whole
    alike = [(torch.ones(100, 6, dtype=torch.float64), torch.zeros(100, dtype=torch.long))]
    assert _sizes(mlp, ScoreInputs(alike)) == [100]  # which cannot tell whether they meet


def test_small_batches_are_not_looked_at() -> None:
    def never(x: Tensor) -> Tensor:
        raise AssertionError("the model was run")

    batches = [(torch.randn(64, 6, dtype=torch.float64), torch.zeros(64, dtype=torch.long))]
    assert _sizes(_Meeting(never), ScoreInputs(batches)) == [64]


def test_dropout_that_is_always_on_is_one_function_in_both_passes() -> None:
    """The look at two samples takes nothing from the stream that both passes draw from."""
    model = _Meeting(lambda x: F.dropout(x, 0.5, training=True))
    inputs = ScoreInputs(_data(), seed=3)
    masks = masking.dense(model)
    first, again = (score(model, "grasp", masks, inputs)["linear.weight"] for _ in range(2))
    parts = ScoreInputs(split(model, inputs, torch.float64), seed=3)
    assert [len(y) for _, y in parts.batches] == [64, 36, 50]
    assert torch.equal(first, again)
    assert torch.equal(first, score(model, "grasp", masks, parts)["linear.weight"])
