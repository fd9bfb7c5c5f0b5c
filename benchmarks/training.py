"""Training throughput beside a plain PyTorch loop, in one process, alternating.

    uv run python benchmarks/training.py                      # CPU: about 4 minutes
    uv run python benchmarks/training.py --device cuda        # whole epochs of CIFAR's size
    uv run python benchmarks/training.py --compressions 10 100 1000 10000 --pairs 2   # shrunken

The plain loop is in the style of the authors' code: a DataLoader over PIL images with torchvision's
transforms, ``.item()`` each batch, masks multiplied in the forward pass, float32. Ours is what
``collapse.imp`` runs, with the score dynamics; without them, their cost is the ratio. Of random
masks at compression 10 nothing can be cut away; of SynFlow's (``--compressions``) a smaller
network is trained, and the plain loop multiplies the same masks. Images are
random: throughput does not depend on what they show. Ratios are medians of the pairs' ratios.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
import torch.nn.functional as F
import torchvision
import tyro
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

from collapse import masks as masking
from collapse.data import Dataset
from collapse.imp import Dynamics, State, conserving_units
from collapse.models import build
from collapse.options import Pruning, Training
from collapse.problem import Problem, choose_device
from collapse.processes import keep_freed_memory
from collapse.pruning import prune
from collapse.runs import Run
from collapse.train import Trainer
from collapse.train.recipes import Settings, resolve

# An epoch of a smaller network is so many times as long, so that what is done once an epoch (the
# whole model's state and dynamics) takes the share that it has in training.
_LONGER = 10


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        images: an epoch's (1,024 on a CPU, 50,000 on a GPU without it).
        pairs: how often ours and the plain loop alternate.
        workers: of the plain loop's DataLoader (0 on a CPU, as the authors' code; 4 on a GPU).
        compile: also measure ours with torch.compile (with compressions: only so).
        compressions: only measure ours pruned by SynFlow to these, against the plain loop.
        out: write the figures as JSON.
    """

    model: str = "vgg16_bn"
    classes: int = 100
    batch_size: int = 128
    images: int | None = None
    pairs: int = 5
    workers: int | None = None
    compile: bool = False
    compressions: tuple[float, ...] = ()
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    out: Path | None = None


class _PilImages(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """As torchvision's CIFAR datasets: arrays, made into PIL images one by one."""

    def __init__(self, dataset: Dataset) -> None:
        self.arrays = dataset.images.permute(0, 2, 3, 1).numpy()
        self.labels = dataset.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(dataset.input_shape[-1], padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(dataset.mean, dataset.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


def plain(
    model: nn.Module, dataset: Dataset, settings: Settings, device: torch.device, workers: int
) -> Callable[[], float]:
    """An epoch of the plain loop."""
    loader = DataLoader(
        _PilImages(dataset),
        batch_size=settings.train_batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=True,
        weight_decay=settings.weight_decay,
    )

    def epoch() -> float:
        model.train()
        total = 0.0
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            total += loss.item() * len(y)
            loss.backward()
            optimizer.step()
        return total / len(dataset.labels)

    return epoch


def main(config: Config) -> None:
    """Measure, print and save."""
    keep_freed_memory()  # as our commands do; the plain loop gains it, too
    device = choose_device(config.device)
    gpu = device.type == "cuda"
    images = config.images or (50_000 if gpu else 1_024)
    workers = config.workers if config.workers is not None else (4 if gpu else 0)
    train, test = _random(images, config.classes), _random(config.classes, config.classes)
    batch_size = config.batch_size
    settings = resolve(Training(train_batch_size=batch_size), config.model, "cifar100")
    settings = replace(settings, lr=0.01)

    def fresh() -> nn.Module:
        return build(config.model, classes=config.classes).to(device)

    draw = torch.Generator().manual_seed(0)
    shapes = {name: mask.shape for name, mask in masking.dense(fresh()).items()}
    masks = {name: (torch.rand(s, generator=draw) < 0.1).to(device) for name, s in shapes.items()}
    if config.compressions:
        masks = _synflow(fresh(), device, config.compressions[0])

    masked = fresh()
    masking.to_torch_prune(masked, masks)
    loops = {"plain": plain(masked, train, settings, device, workers)}
    trainers = {"ours": Trainer(fresh(), train, test, settings)}
    if config.compressions:
        names = {f"ours at {compression:,.0f}": compression for compression in config.compressions}
        train = _random(_LONGER * images, config.classes)
        trainers = {
            name: Trainer(fresh(), train, test, settings, compiled=config.compile) for name in names
        }
        drawn = {name: _synflow(t.model, device, names[name]) for name, t in trainers.items()}
    else:
        trainers["ours without dynamics"] = Trainer(fresh(), train, test, settings)
        if config.compile:
            trainers["ours compiled"] = Trainer(fresh(), train, test, settings, compiled=True)
        drawn = dict.fromkeys(trainers, masks)
    for name, trainer in trainers.items():
        trainer.hold(drawn[name])
        watched = name != "ours without dynamics"
        loops[name] = _ours(trainer, drawn[name] if watched else None)
    if not config.compressions:
        loops["saving a state"] = _saving(trainers["ours"], masks)

    seconds = {name: [] for name in loops}
    for pair in range(config.pairs + 1):
        for name, loop in loops.items():
            start = time.perf_counter()
            loop()
            if gpu:
                torch.cuda.synchronize()
            if pair:  # the first is warm-up
                seconds[name].append(time.perf_counter() - start)
    for name in trainers if config.compressions else ():
        seconds[name] = [value / _LONGER for value in seconds[name]]
    medians = {name: statistics.median(values) for name, values in seconds.items()}

    def ratio(over: str, under: str) -> float:
        pairs = zip(seconds[over], seconds[under], strict=True)
        return statistics.median(a / b for a, b in pairs)

    found = {
        "config": {**asdict(config), "out": None, "images": images, "workers": workers},
        "machine": torch.cuda.get_device_name() if gpu else platform.processor() or "CPU",
        "cpus": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "date": datetime.now(UTC).date().isoformat(),
        "bfloat16": next(iter(trainers.values())).bfloat16,
        "seconds_an_epoch": medians,
        "images_a_second": {name: images / s for name, s in medians.items() if "state" not in name},
        **{f"plain / {name}": ratio("plain", name) for name in trainers if " at " in name},
    }
    if not config.compressions:
        found["plain / ours"] = ratio("plain", "ours")
        found["dynamics' share of an epoch"] = ratio("ours", "ours without dynamics") - 1
        found["saving's share of an epoch"] = ratio("saving a state", "ours")
    if "ours compiled" in trainers:
        found["plain / ours compiled"] = ratio("plain", "ours compiled")
    print(json.dumps(found, indent=1))
    if config.out is not None:
        config.out.write_text(json.dumps(found, indent=1) + "\n")


def _synflow(model: nn.Module, device: torch.device, compression: float) -> dict[str, torch.Tensor]:
    example = torch.zeros(1, 3, 32, 32, device=device)
    problem = Problem(model, [(example, torch.zeros(1, dtype=torch.long, device=device))])
    return prune(problem, options=Pruning(pruner="synflow"), compression=compression).masks


def _ours(trainer: Trainer, masks: dict[str, torch.Tensor] | None) -> Callable[[], object]:
    """An epoch of ours; the test on one image a class is a part of it."""
    watch = None
    if masks is not None:
        watch = Dynamics(trainer, masks, conserving_units(trainer), 0)

    def epoch() -> object:
        rows, numbers = trainer.epoch(0, 0, watch)
        return rows if watch is None else watch.observe(numbers, 1)

    return epoch


def _saving(trainer: Trainer, masks: dict[str, torch.Tensor]) -> Callable[[], None]:
    """One epoch's boundary written to disk, synced."""
    folder = TemporaryDirectory()
    run = Run(Path(folder.name), {"benchmark": True})

    def save() -> None:
        run.save_state(State(0, 0, masks, tensors=trainer.snapshot()))

    weakref.finalize(save, folder.cleanup)
    return save


def _random(images: int, classes: int) -> Dataset:
    draw = torch.Generator().manual_seed(images)
    pixels = torch.randint(256, (images, 3, 32, 32), generator=draw, dtype=torch.uint8)
    labels = torch.arange(images) % classes
    return Dataset("random", pixels, labels, classes, (0.5,) * 3, (0.25,) * 3)


if __name__ == "__main__":
    main(tyro.cli(Config))
