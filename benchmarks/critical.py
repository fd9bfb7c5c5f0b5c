"""Time of each part of the main jobs, and, beside a checkout of the authors' code, the ratio.

    uv run python benchmarks/critical.py [--authors DIR] [--device cuda]

Prints seconds of (1) 100 iterations of SynFlow on VGG-16-BN at compression 100, split into
scoring and selection, (2) each row of ``python -m collapse.critical --model vgg16``, and (3) one
iteration on networks of growing size, to show that nothing grows faster than linearly. With
``--authors`` it runs (1) in their code too, in turn with ours, in the same process.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import nn

from collapse import masks as masking
from collapse import pruning
from collapse.critical import critical_compression
from collapse.data import load
from collapse.models import build
from collapse.options import Pruning
from collapse.scores import SCORES, ScoreInputs, score


@dataclass(frozen=True)
class Config:
    """Time the main jobs.

    Attributes:
        authors: a checkout of ganguli-lab/Synaptic-Flow, to run beside ours.
        repeats: of the SynFlow comparison; the median counts.
        device: where ours runs (the authors' is timed on the CPU).
    """

    authors: Path | None = None
    repeats: int = 3
    device: str = "cpu"


def seconds(work: Any) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def ours(device: str) -> None:
    """100 iterations of SynFlow on VGG-16-BN, 100 classes, compression 100."""
    model = build("vgg16_bn", classes=100, init="kaiming").to(device)
    batch = [(torch.zeros(1, 3, 32, 32, device=device), torch.zeros(1, dtype=torch.long))]
    result = pruning.prune(model, batch, Pruning(), compression=100)
    assert masking.kept(result.masks) == -(-14_761_664 // 100)


def theirs(checkout: Path) -> Any:
    """The same in the authors' code, which is imported from the checkout."""
    sys.path.insert(0, str(checkout))
    models = importlib.import_module("Models.lottery_vgg")
    pruners = importlib.import_module("Pruners.pruners")
    generator = importlib.import_module("Utils.generator")
    loop = importlib.import_module("prune")

    def work() -> None:
        model = models.vgg16_bn((3, 32, 32), 100)
        pruner = pruners.SynFlow(generator.masked_parameters(model, False, False, False))
        batch = [(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))]
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            loop.prune_loop(
                model,
                nn.CrossEntropyLoss(),
                pruner,
                batch,
                "cpu",
                0.01,
                "exponential",
                "global",
                100,
            )

    return work


def parts_of_an_iteration(name: str, device: str, **options: Any) -> tuple[int, float, float]:
    """(parameters, seconds of scoring, seconds of selection) of one SynFlow iteration."""
    model = build(name, **options).to(device)
    shape = options.get("input_shape", (3, 32, 32))
    inputs = ScoreInputs([(torch.zeros(1, *shape, device=device), torch.zeros(1))])
    masks = masking.dense(model)
    total = masking.total(masks)
    score(model, "synflow", masks, inputs)
    scoring = statistics.median(
        seconds(lambda: score(model, "synflow", masks, inputs)) for _ in range(3)
    )
    scores = score(model, "synflow", masks, inputs)
    selecting = statistics.median(
        seconds(lambda: masking.select(scores, total // 2)) for _ in range(3)
    )
    return total, scoring, selecting


def main(config: Config) -> None:
    """Print everything."""
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}, "
        f"{torch.get_num_threads()} threads, {platform.machine()}"
    )
    print("\nSynFlow, 100 iterations, VGG-16-BN 32×32, compression 100")
    mine, other = [], []
    work = theirs(config.authors) if config.authors else None
    for _ in range(config.repeats):
        mine.append(seconds(lambda: ours(config.device)))
        if work is not None:
            other.append(seconds(work))
    print(f"  ours     median {statistics.median(mine):8.2f} s")
    if other:
        ratios = [b / a for a, b in zip(mine, other, strict=True)]
        print(f"  authors' median {statistics.median(other):8.2f} s")
        print(f"  ratio    median {statistics.median(ratios):8.2f} (of {config.repeats} pairs)")

    print("\npython -m collapse.critical --model vgg16, part by part")
    start = time.perf_counter()
    dataset = load("digits")
    model = build("vgg16").to(config.device)
    batches = [(x.to(config.device), y.to(config.device)) for x, y in dataset.score_batches()]
    print(f"  {'model and data':24s}{time.perf_counter() - start:8.2f} s")
    plans = [*(Pruning(pruner=name) for name in SCORES), Pruning(schedule="certified")]
    for plan in plans:
        spent = seconds(lambda plan=plan: critical_compression(model, batches, plan))
        label = plan.pruner + (" certified" if plan.schedule == "certified" else "")
        print(f"  {label:24s}{spent:8.2f} s")

    print("\none SynFlow iteration against size (medians of 3)")
    print(f"  {'network':18s}{'parameters':>14s}{'score':>10s}{'select':>10s}{'ns/param':>10s}")
    for name, options in (
        ("resnet110", {}),
        ("vgg11_bn", {}),
        ("vgg16_bn", {}),
        ("wideresnet18", {}),
        ("vgg19", {"input_shape": (3, 224, 224), "classes": 1000}),
    ):
        total, scoring, selecting = parts_of_an_iteration(name, config.device, **options)
        print(
            f"  {name:18s}{total:14,}{scoring:9.3f}s{selecting:9.3f}s"
            f"{(scoring + selecting) / total * 1e9:10.2f}"
        )


if __name__ == "__main__":
    main(tyro.cli(Config))
