"""The paths of a GPU on a machine without one: no mixed devices, no question to the device.

Tensors are PyTorch's fake ones, which have shapes, types and a device but no values: an operation
between devices raises, and a number that the host asks for is counted. The device is ``meta``,
because the backward pass of fake ``cuda`` tensors asks the driver for a device. So what depends on
the type ``cuda`` (pinned memory, timing, bfloat16) is not run here, and a copy to the CPU shows
only where its result meets another tensor. Not run either: connectivity and the ledger's recorder,
which decide by values what to do next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from collapse.data import Dataset
from collapse.data.loader import Feed
from collapse.models import Masks, build
from collapse.options import Training
from collapse.pruning.on_device import launch
from collapse.scores import SCORES, ScoreInputs
from collapse.train import Trainer
from collapse.train.recipes import resolve

DEVICE = torch.device("meta")


class _Device(FakeTensorMode):
    """Counts the numbers that the host asks for, and answers 1."""

    asked = 0

    def dispatch(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.asked += 1
            return 1
        return super().dispatch(func, types, args, kwargs)


@pytest.fixture
def device() -> Iterator[_Device]:
    with _Device() as mode:
        yield mode


def _network() -> tuple[nn.Module, Masks]:
    """A convolutional network with BatchNorm on the device, and its dense masks."""
    model = build("vgg11_bn", input_shape=(3, 32, 32)).eval()
    for module in model.modules():  # Module.to refuses fake tensors
        for name, p in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(p.detach().to(DEVICE)))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(DEVICE))
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    return model, {name: torch.ones_like(p, dtype=torch.bool) for name, p in weights.items()}


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, without the look at the targets' range that users' labels get."""
    return F.cross_entropy(outputs, targets)


def _inputs() -> ScoreInputs:
    x = torch.zeros(2, 3, 32, 32, device=DEVICE)
    return ScoreInputs([(x, torch.zeros(2, dtype=torch.long, device=DEVICE))], loss=_loss)


def _images(device: torch.device) -> Dataset:
    images = torch.zeros(5, 3, 32, 32, dtype=torch.uint8, device=device)
    labels = torch.zeros(5, dtype=torch.long, device=device)
    return Dataset("made", images, labels, 10, (0.5,) * 3, (0.2,) * 3)


def test_what_a_device_would_mind_is_noticed(device: _Device) -> None:
    there = torch.zeros(2, device=DEVICE)
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.zeros(2)
    assert there.sum().item() == 1
    assert bool(there[0] > 0)
    there.tolist()
    assert device.asked == 4


def test_iterations_of_synflow_ask_nothing(device: _Device) -> None:
    model, masks = _network()
    total = sum(mask.numel() for mask in masks.values())
    with torch.enable_grad():
        *numbers, removed = launch(model, masks, _inputs(), total, [total // 2, total // 4])
    assert {x.device for x in (*numbers, *removed)} == {DEVICE}
    assert device.asked == 0


@pytest.mark.parametrize("pruner", ["random", "magnitude", "snip", "grasp", "synflow"])
def test_scores_stay_on_the_device(pruner: str, device: _Device) -> None:
    """SynFlow's alone ask: for R, and for each layer whether its scores are finite."""
    model, masks = _network()
    scores = SCORES[pruner](model, masks, _inputs())
    assert {score.device for score in scores.values()} == {DEVICE}
    assert device.asked == (1 + len(masks) if pruner == "synflow" else 0)


def test_batches_are_made_on_the_device(device: _Device) -> None:
    feed = Feed(_images(torch.device("cpu")), DEVICE, augment=True)
    batches = [*feed.shuffled(2, 0, "train"), *feed.in_order()]
    assert [len(labels) for _, labels in batches] == [2, 3, 5]
    assert {tensor.device for batch in batches for tensor in batch} == {DEVICE}
    assert device.asked == 0


def test_an_epoch_asks_once(device: _Device, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = _images(torch.device("cpu"))
    model, _ = _network()
    trainer = Trainer(model, digits, digits, resolve(Training(), "vgg11_bn", "cifar10"))
    asked: list[int] = []

    def tolist(tensor: Tensor) -> list[float]:
        asked.append(device.asked)
        return [0.0] * tensor.numel()

    monkeypatch.setattr(FakeTensor, "tolist", tolist)
    monkeypatch.setattr(Trainer, "_autocast", lambda _: nullcontext())  # there is none for meta
    device.asked = 0  # weights are checked when a trainer is made
    trainer.epoch(0, 0)
    assert trainer.device == DEVICE
    assert asked == [0]
    assert device.asked == 0
