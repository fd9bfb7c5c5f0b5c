"""Pruned weights stay zero in other people's training loops; the optimiser is theirs."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import collapse
from collapse.models import prunable

pytestmark = pytest.mark.slow  # each of these packages takes seconds to import

INPUTS, TARGETS = torch.randn(24, 6), torch.arange(24) % 3


def _pruned() -> tuple[nn.Sequential, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return model, {name: torch.rand(p.shape) < 0.4 for name, p in prunable(model).items()}


def _zero(model: nn.Module, masks: dict[str, Tensor]) -> bool:
    return all(not model.get_parameter(name).detach()[~mask].any() for name, mask in masks.items())


def _loader() -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(INPUTS, TARGETS), 4)


@pytest.mark.parametrize("keep", [True, False])
def test_lightning(tmp_path: Path, keep: bool) -> None:
    lightning = pytest.importorskip("lightning")
    seen = []

    class Module(lightning.LightningModule):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch, index):
            x, y = batch
            seen.append(_zero(self.model, masks))
            return F.cross_entropy(self.model(x), y)

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=0.1)

    model, masks = _pruned()
    if keep:
        collapse.keep_pruned(model, masks)
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        gradient_clip_val=0.5,
        accumulate_grad_batches=2,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(model), _loader())
    assert _zero(model, masks) == keep
    assert len(seen) == 18
    assert all(seen[1:]) == keep


@pytest.mark.parametrize("keep", [True, False])
def test_accelerate(keep: bool) -> None:
    accelerate = pytest.importorskip("accelerate")
    model, masks = _pruned()
    start = copy.deepcopy(model.state_dict())
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    model, optimizer, loader = accelerator.prepare(model, optimizer, _loader())
    if keep:
        collapse.keep_pruned(model, masks, optimizer)
    for x, y in loader:
        with accelerator.accumulate(model):
            accelerator.backward(F.cross_entropy(model(x), y))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
        assert not keep or _zero(model, masks)
    model = accelerator.unwrap_model(model)
    assert _zero(model, masks) == keep
    assert not torch.equal(model[0].weight, start["0.weight"])


@pytest.mark.parametrize("keep", [True, False])
def test_trainer_of_hugging_face(tmp_path: Path, keep: bool) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Model(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.body(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    body, masks = _pruned()
    start = copy.deepcopy(body.state_dict())
    model = Model(body)
    if keep:
        collapse.keep_pruned(model, {f"body.{name}": mask for name, mask in masks.items()})
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        num_train_epochs=2,
        learning_rate=0.1,
        weight_decay=0.1,
        max_grad_norm=0.5,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    data = [{"x": x, "labels": y} for x, y in zip(INPUTS, TARGETS, strict=True)]
    transformers.Trainer(model=model, args=arguments, train_dataset=data).train()
    assert _zero(body, masks) == keep
    assert not torch.equal(body[0].weight, start["0.weight"])


# The same in each process.
ALL = torch.linspace(-1, 1, 24 * 6).reshape(24, 6).sin()


def _distributed(rank: int, form: str, folder: str) -> None:
    """One of two processes that train the network on half of the samples each."""
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    network, masks = _pruned()
    model: nn.Module = network
    if form == "sharded":
        mesh = distributed.init_device_mesh("cpu", (2,))
        for layer in (network[0], network[2], network):
            fully_shard(layer, mesh=mesh)
    else:
        model = nn.parallel.DistributedDataParallel(network)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    collapse.keep_pruned(model, masks, optimizer)
    rows = slice(12 * rank, 12 * rank + 12)
    _train(model, optimizer, ALL[rows], TARGETS[rows])
    whole = network.state_dict() | {f"{n} grad": p.grad for n, p in network.named_parameters()}
    if form == "sharded":
        whole = {name: tensor.full_tensor() for name, tensor in whole.items()}
    torch.save(whole, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()


@pytest.mark.parametrize("form", ["sharded", "parallel"])
def test_distributed(tmp_path: Path, form: str) -> None:
    """Two processes give what one gives, but for the order of sums."""
    torch.multiprocessing.spawn(_distributed, (form, str(tmp_path)), nprocs=2)
    model, masks = _pruned()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    collapse.keep_pruned(model, masks, optimizer)
    _train(model, optimizer, ALL, TARGETS)
    for rank in range(2):
        whole = torch.load(tmp_path / f"{rank}.pt")
        for name, mask in masks.items():
            assert not whole[name][~mask].any()
            assert not whole[f"{name} grad"][~mask].any()
            torch.testing.assert_close(whole[name], model.get_parameter(name).detach())
