"""Time of each part of a critical-compression search, and of one iteration as networks grow.

    uv run python benchmarks/critical.py [--device cuda] [--only commands search growth]

Prints the seconds of each row of ``python -m collapse.critical --model vgg16``, and of one of the
first iterations of a pruning to compression 100, on the way of which 4.5 % go: for VGG-16-BN of
growing width, where a parameter is always as much work, and for networks of the paper. If asked,
those of whole commands too, start-up included.
"""

from __future__ import annotations

import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from torch import nn
from torchvision.models import vgg

from collapse import masks as masking
from collapse.critical import critical_compression
from collapse.data import load
from collapse.models import build
from collapse.options import PAPER_PRUNERS, Pruning
from collapse.pruning import prune

Part = Literal["commands", "search", "growth"]
# What people type; of ResNet-50 what needs no data.
COMMANDS = (
    "--model vgg16",
    "--model torchvision:resnet50 --dataset gaussian --input-shape 3 224 224 --classes 1000 "
    "--pruners random magnitude synflow",
)
# Widths of 1 to 150 million parameters.
WIDTHS = (0.26, 0.5, 1.0, 1.75, 3.2)
# Iterations whose cost is taken together, beyond one that prepares.
ITERATIONS = 8


@dataclass(frozen=True)
class Config:
    """Time a search and its iterations.

    Attributes:
        only: some of the parts.
        repeats: of each command's and iteration's time; the median counts.
        device: where to run.
    """

    only: tuple[Part, ...] = ("search", "growth")  # commands take most of an hour
    repeats: int = 3
    device: str = "cpu"


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def commands(config: Config) -> None:
    """Whole processes."""
    print(f"\npython -m collapse.critical … --quiet (medians of {config.repeats})")
    for options in COMMANDS:
        words = [*options.split(), "--device", config.device, "--quiet"]

        def once(words: list[str] = words) -> tuple[float, float]:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            wall = seconds(
                lambda: subprocess.run(
                    [sys.executable, "-m", "collapse.critical", *words],
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            return wall, used

        walls, used = zip(*(once() for _ in range(config.repeats)), strict=True)
        wall, processor = statistics.median(walls), statistics.median(used)
        print(f"  {options}\n  {wall:24.1f} s, {processor:.1f} of processor time", flush=True)


def search(device: str) -> None:
    """The rows of the command."""
    print("\npython -m collapse.critical --model vgg16, part by part")
    start = time.perf_counter()
    dataset = load("digits")
    model = build("vgg16").to(device)
    batches = [(x.to(device), y.to(device)) for x, y in dataset.score_batches()]
    print(f"  {'model and data':24s}{time.perf_counter() - start:8.2f} s")
    plans = [*(Pruning(pruner=name) for name in PAPER_PRUNERS), Pruning(schedule="certified")]
    for plan in plans:
        spent = seconds(lambda plan=plan: critical_compression(model, batches, plan))
        label = plan.pruner + (" certified" if plan.schedule == "certified" else "")
        print(f"  {label:24s}{spent:8.2f} s")


def widened(width: float) -> nn.Module:
    """VGG-16-BN for 32×32 with so many times the channels."""
    plan = [w if isinstance(w, str) else round(w * width) for w in vgg.cfgs["D"][:-1]]
    last = round(512 * width)
    head = nn.AvgPool2d(2), nn.Flatten(), nn.Linear(last, 100)
    model = nn.Sequential(*vgg.make_layers(plan, batch_norm=True), *head)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):  # |θ| of mean 1/fan-in: R stays in float32 at any width
            nn.init.normal_(module.weight, std=1 / module.weight[0].numel())
    return model


def iteration(model: nn.Module, height: int, config: Config) -> tuple[int, float]:
    """Parameters, and seconds of one iteration."""
    model.to(config.device)
    batch = [(torch.zeros(1, 3, height, height, device=config.device), torch.zeros(1))]
    share = 100**0.01

    def work(iterations: int) -> None:
        prune(model, batch, Pruning(iterations=iterations), compression=share**iterations)

    work(1)
    spent = [
        (seconds(lambda: work(1 + ITERATIONS)) - seconds(lambda: work(1))) / ITERATIONS
        for _ in range(config.repeats)
    ]
    return masking.total(masking.dense(model)), statistics.median(spent)


def growth(config: Config) -> None:
    """Cost of an iteration against size."""
    print(f"\none SynFlow iteration (medians of {config.repeats})")
    print(f"  {'network':24s}{'parameters':>14s}{'ms':>10s}{'ns/param':>10s}")
    networks: dict[str, tuple[Callable[[], nn.Module], int]] = {
        f"vgg16_bn, width {width:g}": (lambda width=width: widened(width), 32) for width in WIDTHS
    }
    for name in ("resnet110", "resnet18", "wideresnet18"):
        networks[name] = (lambda name=name: build(name), 32)
    shape = 3, 224, 224
    networks["vgg19, 224×224"] = (lambda: build("vgg19", input_shape=shape, classes=1000), 224)
    for name, (make, height) in networks.items():
        total, spent = iteration(make(), height, config)
        print(f"  {name:24s}{total:14,}{spent * 1e3:10.1f}{spent / total * 1e9:10.2f}", flush=True)


def main(config: Config) -> None:
    """Print everything."""
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} threads, {platform.machine()}"
    )
    if "commands" in config.only:
        commands(config)
    if "search" in config.only:
        search(config.device)
    if "growth" in config.only:
        growth(config)


if __name__ == "__main__":
    main(tyro.cli(Config))
