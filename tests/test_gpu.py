"""The same numbers on a GPU. Skipped where there is none."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from collapse import masks as masking
from collapse.connectivity import living
from collapse.conservation import audit
from collapse.critical import critical_compression
from collapse.data import load
from collapse.imp import Dynamics, State, conserving_units
from collapse.models import build
from collapse.options import Execution, Pruning, Rewinding, Setup, Training
from collapse.pruning import on_device, prune
from collapse.runs import Experiment, perform
from collapse.scores import SCORES, ScoreInputs
from collapse.train import Trainer
from collapse.train.recipes import resolve
from tests.runs.killing import results

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def _both(pruner: str):
    """A network in float64 and a batch, on the CPU and on the GPU."""
    for device in ("cpu", "cuda"):
        model = build("vgg11_bn", seed=1).double().to(device)
        x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
        yield model, [(x.to(device), torch.arange(8, device=device))]


@pytest.mark.parametrize("schedule", ["exponential", "certified"])
@pytest.mark.parametrize("pruner", SCORES)
def test_masks_and_critical_compression_are_the_cpus(pruner: str, schedule: str) -> None:
    if schedule == "certified" and pruner != "synflow":
        pytest.skip("only synflow is conserved")
    options = Pruning(pruner=pruner, iterations=3, schedule=schedule, mode="eval")
    once = Pruning(pruner=pruner, iterations=1, schedule=schedule, mode="eval")
    found = []
    for model, batches in _both(pruner):
        masks = prune(model, batches, options, compression=50).masks
        alive = living(model, masks, batches[0][0])
        critical = critical_compression(model, batches, once, effective=False)
        found.append((masks, alive, critical.critical_kept))
    (masks, alive, kept), (gpu_masks, gpu_alive, gpu_kept) = found
    differing = sum(int((masks[n] != gpu_masks[n].cpu()).sum()) for n in masks)
    assert masking.kept(masks) == masking.kept(gpu_masks)
    assert differing <= 1e-4 * masking.total(masks)  # rounding may swap neighbours in rank
    assert masking.kept(alive) == pytest.approx(masking.kept(gpu_alive), rel=1e-2)
    assert gpu_kept == pytest.approx(kept, rel=1e-3)


def test_synflow_never_waits_between_iterations() -> None:
    model = build("vgg11_bn", seed=1).cuda().eval()
    masks = masking.dense(model)
    total = masking.total(masks)
    goals = [total // 2, total // 4, total // 8]
    inputs = ScoreInputs([(torch.zeros(1, 3, 32, 32, device="cuda"), torch.zeros(1))])
    with torch.enable_grad():
        on_device._launch(model, masks, inputs, total, goals)  # libraries wait while they start
        try:
            torch.cuda.set_sync_debug_mode("error")
            gone = on_device._launch(model, masks, inputs, total, goals)[-1]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert [len(places) for places in gone] == [
        total - goals[0],
        *(a - b for a, b in pairwise(goals)),
    ]


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("pruner", ["synflow", "snip", "grasp"])
def test_conservation_holds_on_the_gpu(pruner: str, mode: str) -> None:
    for model, batches in _both(pruner):
        found = audit(model, batches[0], pruner=pruner, mode=mode)
        assert float(found.ledger["residual"].max()) <= 1e-10


def test_training_resumes_to_the_byte(tmp_path: Path) -> None:
    """IMP of a convolutional network on the GPU, stopped after an epoch, with --exact."""
    experiment = Experiment(
        Setup(model="vgg11_bn", device="cuda"),
        training=Training(epochs=2, train_samples=500, test_samples=200),
        rewinding=Rewinding(levels=1, rewind_epoch=1),
        compression=20,
    )
    whole = perform(experiment, Execution(runs=tmp_path / "whole", exact=True))

    class StopError(Exception):
        pass

    def stop(state: State) -> None:
        raise StopError

    parts = Execution(runs=tmp_path / "parts", exact=True)
    with pytest.raises(StopError):
        perform(experiment, parts, on_boundary=stop)
    perform(experiment, parts)
    assert results(whole.root) == results(tmp_path / "parts")


def test_training_waits_for_the_device_once_an_epoch() -> None:
    """Any other synchronisation of an epoch raises."""
    digits = load("digits")
    model = build("vgg11_bn", classes=10).cuda()
    trainer = Trainer(model, digits, digits, resolve(Training(), "vgg11_bn", "digits"))
    watch = Dynamics(trainer, masking.dense(model), conserving_units(trainer), 0)
    trainer.epoch(0, 0, watch)  # warm-up allocates and chooses algorithms
    waits = []
    tolist = torch.Tensor.tolist

    def last(tensor: torch.Tensor) -> object:
        waits.append(tensor.shape)
        torch.cuda.set_sync_debug_mode("default")
        return tolist(tensor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "tolist", last)
        try:
            torch.cuda.set_sync_debug_mode("error")
            trainer.epoch(0, 1, watch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(waits) == 1


@pytest.mark.parametrize("compiled", [False, True])
def test_training_on_the_gpu_learns(compiled: bool) -> None:
    train, test = load("digits"), load("digits", "test")
    model = build("vgg11_bn", classes=10).cuda()
    settings = resolve(Training(), "vgg11_bn", "digits")
    trainer = Trainer(model, train, test, settings, compiled=compiled)
    masks = prune(model, [], Pruning(pruner="magnitude"), compression=10).masks
    trainer.hold(masks)
    rows = [trainer.epoch(0, epoch)[0] for epoch in range(6)]
    assert rows[-1][1]["top1"] > 90
    for name, mask in masks.items():
        assert not dict(model.named_parameters())[name][~mask].any()
