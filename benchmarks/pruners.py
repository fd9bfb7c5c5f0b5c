"""Each pruner beside the authors' code: time as a ratio within one run, peak memory of each.

    uv run python benchmarks/pruners.py --authors DIR [--only snip-vgg16_bn] [--out pruners.json]

DIR is a checkout of ganguli-lab/Synaptic-Flow. Both sides get networks of the same architecture and
inputs of the same number and shape, scored in eval mode, in turn, in one process; building the
networks is not timed. Memory is the peak of a process of its own for each side, imports included.
The limit is the least time that ours could take on this machine: the operations of its products
and convolutions at the speed of large ones, and its bytes at that of a large array, each surviving
weight read twice an iteration and its score written and read once.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import nn

from benchmarks.machine import Operations, limits
from collapse import masks as masking
from collapse.models import build
from collapse.options import Pruning
from collapse.processes import keep_freed_memory
from collapse.pruning import Pruned, prune

CLASSES = 100

# Builds a network, and prunes it.
Side = tuple[Callable[[], nn.Module], Callable[[nn.Module], Any]]


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        module: the authors' module of the network, under ``Models``.
        samples: images that are scored on; SynFlow takes the shape only.
        compression: what is reached after the iterations.
        height: of the square images.
    """

    pruner: str
    model: str
    module: str
    samples: int
    iterations: int = 1
    compression: float = 100.0
    height: int = 32

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image."""
        return 3, self.height, self.height

    @property
    def classes(self) -> int:
        """ImageNet's at its size."""
        return CLASSES if self.height == 32 else 1000


CASES = {
    "synflow-vgg16_bn": Case("synflow", "vgg16_bn", "lottery_vgg", 1, iterations=100),
    "synflow-resnet18": Case("synflow", "resnet18", "tinyimagenet_resnet", 1, iterations=100),
    # The first of 100 iterations to compression 100, at ImageNet's size.
    "synflow-vgg19-224": Case(
        "synflow", "vgg19", "imagenet_vgg", 1, iterations=10, compression=100**0.1, height=224
    ),
    "synflow-resnet50-224": Case(
        "synflow", "torchvision:resnet50", "imagenet_resnet", 1, iterations=100, height=224
    ),
    "snip-vgg16_bn": Case("snip", "vgg16_bn", "lottery_vgg", 1000),
    "grasp-vgg16_bn": Case("grasp", "vgg16_bn", "lottery_vgg", 1000),
}


@dataclass(frozen=True)
class Config:
    """Time each pruner beside the authors'.

    Attributes:
        authors: a checkout of their code.
        only: some of the cases.
        repeats: pairs; the median counts.
        out: write the numbers as JSON.
    """

    authors: Path
    only: tuple[str, ...] = tuple(CASES)
    repeats: int = 3
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None


def batches(case: Case) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Random images with labels, 256 at a time."""
    torch.manual_seed(0)
    images = torch.randn(case.samples, *case.shape)
    labels = torch.arange(case.samples) % CLASSES
    return list(zip(images.split(256), labels.split(256), strict=True))


def ours(case: Case) -> Side:
    """A pruning with our code."""
    data = batches(case)
    options = Pruning(pruner=case.pruner, iterations=case.iterations, mode="eval")

    def prepare() -> nn.Module:
        return build(case.model, input_shape=case.shape, classes=case.classes, init="kaiming")

    def work(model: nn.Module) -> Pruned:
        result = prune(model, data, options, compression=case.compression)
        total = masking.total(result.masks)
        assert masking.kept(result.masks) == masking.keep_count(total, case.compression)
        return result

    return prepare, work


def theirs(case: Case, checkout: Path) -> Side:
    """The same with the authors' code, imported from the checkout."""
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    models = importlib.import_module(f"Models.{case.module}")
    pruners = importlib.import_module("Pruners.pruners")
    generator = importlib.import_module("Utils.generator")
    loop = importlib.import_module("prune")
    # It counts survivors in float32 and quits Python, with exit code 0, where that misses by five:
    # beyond 2**24 it does.
    vars(loop)["quit"] = lambda: None
    kind = {"synflow": "SynFlow", "snip": "SNIP", "grasp": "GraSP"}[case.pruner]
    data = batches(case)

    def prepare() -> nn.Module:
        factory = getattr(models, case.model.removeprefix("torchvision:"))
        model: nn.Module = factory(case.shape, case.classes)
        return model

    def work(model: nn.Module) -> None:
        pruner = getattr(pruners, kind)(generator.masked_parameters(model, False, False, False))
        quiet = (
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        )
        with quiet[0], quiet[1]:
            loop.prune_loop(
                *(model, nn.CrossEntropyLoss(), pruner, data, "cpu", 1 / case.compression),
                *("exponential", "global", case.iterations),
            )

    return prepare, work


def seconds(side: Side) -> float:
    """Wall time of pruning a new network."""
    prepare, work = side
    gc.collect()  # the last network of theirs, which holds itself: 10 GB of VGG-19's
    model = prepare()
    start = time.perf_counter()
    work(model)
    return time.perf_counter() - start


def least(case: Case) -> float:
    """Seconds that ours would take at this machine's limits."""
    prepare, work = ours(case)
    with Operations() as operations:
        pruned: Pruned = work(prepare())
    double = pruned.scores.precision.startswith("float64")
    speed, bandwidth = limits(torch.float64 if double else torch.float32)
    kept = [sum(step.kept_by_layer.values()) for step in pruned.steps]
    visited = sum([masking.total(pruned.masks), *kept[:-1]])
    moved = 4 * (8 if double else 4) * visited
    return operations.count / speed + moved / bandwidth


def peak(config: Config, name: str, side: str) -> float:
    """Gigabytes of a process that does one side once, imports included (about 0.5 with torch)."""
    words = [sys.executable, __file__, "--authors", str(config.authors), "--only", name]
    environment = {**os.environ, _SIDE: side}
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout.split()[-1])


# Set in the process that measures the memory of one side.
_SIDE = "PRUNERS_BENCHMARK_SIDE"


def measure_child(config: Config, side: str) -> None:
    """In a child: run one side once, print the peak of the process."""
    case = CASES[config.only[0]]
    prepare, work = ours(case) if side == "ours" else theirs(case, config.authors)
    work(prepare())
    # Linux's own count: getrusage's begins with what the parent held when it forked.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) / 2**20)


def main(config: Config) -> None:
    """Print a table."""
    keep_freed_memory()  # as our commands do; the other side gains it, too
    if side := os.environ.get(_SIDE):
        measure_child(config, side)
        return
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{versions}, {torch.get_num_threads()} threads, {platform.machine()}")
    print(
        f"{'case':20s}{'ours':>9s}{'theirs':>9s}{'ratio':>8s}{'limit':>9s}"
        f"{'GB':>7s}{'theirs':>8s}{'ratio':>8s}"
    )
    rows: list[dict[str, Any]] = []
    for name in config.only:
        case = CASES[name]
        mine, other = ours(case), theirs(case, config.authors)
        pairs = [(seconds(mine), seconds(other)) for _ in range(config.repeats)]
        memory = peak(config, name, "ours"), peak(config, name, "theirs")
        row = {
            "case": name,
            "ours": statistics.median(a for a, _ in pairs),
            "theirs": statistics.median(b for _, b in pairs),
            "ratio": statistics.median(b / a for a, b in pairs),
            "pairs": len(pairs),
            "limit": least(case),
            "memory": memory[0],
            "theirs_memory": memory[1],
        }
        rows.append(row)
        print(
            f"{name:20s}{row['ours']:8.2f}s{row['theirs']:8.2f}s{row['ratio']:8.2f}"
            f"{row['limit']:8.2f}s"
            f"{memory[0]:7.2f}{memory[1]:8.2f}{memory[0] / memory[1]:8.2f}",
            flush=True,
        )
    if config.out is not None:
        config.out.write_text(json.dumps({"versions": versions, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Config))
