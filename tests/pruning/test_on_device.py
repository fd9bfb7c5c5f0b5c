"""Iterations in a queue, as on a GPU: the masks of the loop, and no question in between."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from collapse import masks as masking
from collapse.critical import critical_compression
from collapse.models import build
from collapse.options import Pruning
from collapse.pruning import prune
from collapse.pruning.on_device import OnDevice, launch
from collapse.scores import ScoreInputs


class _Watched(OnDevice):
    """The CPU in the place of a GPU; how many goals each queue had."""

    queues: ClassVar[list[int]] = []

    def _queue(self, goals):
        self.queues.append(len(goals))
        return super()._queue(goals)


@pytest.fixture(autouse=True)
def _no_queues() -> None:
    _Watched.queues.clear()


def test_critical_compression_is_the_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("fc", input_shape=(3, 8, 8), seed=0)
    batches = [(torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.long))]
    definition = critical_compression(model, batches, Pruning(iterations=5))
    monkeypatch.setattr(OnDevice, "pays", OnDevice.can)
    assert critical_compression(model, batches, Pruning(iterations=5)) == definition


@pytest.mark.parametrize("factor", [1e16, 1e-12])
def test_out_of_range_is_left_to_the_definition(factor: float, mlp: nn.Module) -> None:
    """R is beyond float32 there: the definition takes float64."""
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.mul_(factor)
    batches = [(torch.zeros(1, 6), torch.zeros(1, dtype=torch.long))]
    definition = prune(mlp, batches, compression=5, engine="plain")
    ours = prune(mlp, batches, compression=5, engine=_Watched)
    assert _Watched.queues == [len(definition.steps)]
    assert {step.precision for step in ours.steps} == {"float64"}
    assert all(torch.equal(ours.masks[name], mask) for name, mask in definition.masks.items())


def test_nothing_to_prune_is_not_queued(mlp: nn.Module) -> None:
    batches = [(torch.zeros(1, 6), torch.zeros(1, dtype=torch.long))]
    assert prune(mlp, batches, compression=1, engine=_Watched).steps == []
    assert _Watched.queues == []


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


def test_nothing_is_asked_before_the_end() -> None:
    model = build("vgg11_bn", input_shape=(3, 32, 32)).eval()
    masks = masking.dense(model)
    total = masking.total(masks)
    inputs = ScoreInputs([(torch.zeros(1, 3, 32, 32), torch.zeros(1))])
    with torch.enable_grad(), _Questions() as questions:
        launch(model, masks, inputs, total, [total // 2, total // 4])
    assert questions.asked == []
    with _Questions() as questions:  # which does notice
        assert bool(torch.ones(1) > 0)
        float(torch.ones(1))
        torch.ones(2)[torch.ones(2) > 0]
    assert len(questions.asked) == 3
