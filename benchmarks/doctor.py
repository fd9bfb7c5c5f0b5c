"""What the doctor costs: the callback beside the epoch that it watches, and whole examinations.

    uv run python benchmarks/doctor.py [--network resnet20] [--images 2048]

Seconds of processor time, so that other work on the machine changes little.
"""

from __future__ import annotations

import platform
import statistics
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import tyro

import collapse
from collapse import masks as masking
from collapse.doctor import Watch


@dataclass(frozen=True)
class Config:
    """Time the callback and the examination.

    Attributes:
        network: that is trained for an epoch and watched.
        images: of the epoch, 3×32×32, in batches of 128.
        examined: networks that are examined once.
        repeats: of the callback; the median counts.
    """

    network: str = "resnet20"
    images: int = 2048
    examined: tuple[str, ...] = ("resnet20", "torchvision:resnet34", "torchvision:vgg16_bn")
    repeats: int = 5


def main(config: Config) -> None:
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads")
    model = collapse.build(config.network)
    weights = collapse.prunable(model)
    masks = masking.select({name: p.detach().abs() for name, p in weights.items()}, 10**4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    start = time.process_time()
    for _ in range(config.images // 128):
        loss = F.cross_entropy(model(torch.randn(128, 3, 32, 32)), torch.randint(10, (128,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        masking.apply(model, masks)
    epoch = time.process_time() - start
    watch, spent = Watch(model, (3, 32, 32)), []
    for call in range(config.repeats):
        start = time.process_time()
        watch(call)
        spent.append(time.process_time() - start)
    call = statistics.median(spent)
    whole = epoch * 50_000 / config.images
    print(
        f"{config.network}: {config.images:,} images {epoch:.2f} s, one call {call:.4f} s: "
        f"{call / epoch:.2%} of them, {call / whole:.3%} of an epoch of 50,000 images"
    )
    for name in config.examined:
        network = collapse.build(name)
        start = time.process_time()
        found = collapse.doctor(network, (3, 32, 32))
        spent_here = time.process_time() - start
        print(f"{name}: {found.parameters:,} parameters examined in {spent_here:.1f} s")


if __name__ == "__main__":
    main(tyro.cli(Config))
