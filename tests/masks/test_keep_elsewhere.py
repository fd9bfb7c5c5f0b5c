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


def _shard(rank: int, file: str, folder: str) -> None:
    """Two processes, the network fully sharded over them; the result is gathered."""
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    model, masks = _pruned()
    mesh = distributed.init_device_mesh("cpu", (2,))
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    collapse.keep_pruned(model, masks, optimizer)
    for _ in range(3):
        rows = slice(12 * rank, 12 * rank + 12)
        optimizer.zero_grad()
        F.cross_entropy(model(INPUTS_OF_ALL[rows]), TARGETS[rows]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    whole = {name: tensor.full_tensor() for name, tensor in model.state_dict().items()}
    gradients = {name: p.grad.full_tensor() for name, p in model.named_parameters()}
    torch.save((whole, gradients), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


INPUTS_OF_ALL = torch.linspace(-1, 1, 24 * 6).reshape(24, 6).sin()  # the same in each process


def test_fully_sharded(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_shard, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    model, masks = _pruned()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    collapse.keep_pruned(model, masks, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(INPUTS_OF_ALL), TARGETS).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    for rank in range(2):
        whole, gradients = torch.load(tmp_path / f"{rank}.pt")
        for name, mask in masks.items():
            assert not whole[name][~mask].any()
            assert not gradients[name][~mask].any()
            torch.testing.assert_close(whole[name], model.get_parameter(name).detach())
