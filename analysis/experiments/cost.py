"""What does each pruner cost, beside one epoch of training? (question 3)"""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.experiments.shared import PRUNERS, measured, needs_labels
from analysis.questions.cost import TABLE
from analysis.resumable import Measured, runner
from collapse import masks as masking
from collapse import pruning, runs
from collapse.errors import RequestError
from collapse.options import Mode, Pruning, Setup, Training

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from collapse.problem import Problem

_MANY = Setup("", dataset="cifar10", init="kaiming")


@dataclass(frozen=True)
class Config:
    """Seconds, operations, samples and memory of pruning, as a share of one training epoch.

    Each is measured in a process of its own, with nothing else running if you can; an epoch is
    timed on some of the images and scaled to all.

    Attributes:
        setup: dataset, samples and device; the model is each of --models.
        models: each of them.
        pruners: random, magnitude, snip, grasp, synflow, or package.module:function.
        compression: to prune to.
        mode: in which snip and grasp are scored; train without it, as in their papers.
        seed: of initialisation, samples and random scores.
        timed_images: that the epoch is timed on.
    """

    setup: Setup = _MANY
    models: tuple[str, ...] = ("minivgg", "resnet20", "vgg16_bn")
    pruners: tuple[str, ...] = PRUNERS
    compression: float = 100.0
    mode: Mode | None = None
    seed: int = 0
    timed_images: int = 500


PRESETS = {
    "smoke": Config(
        Setup("", init="xavier", samples_per_class=1),
        models=("fc",),
        pruners=("magnitude", "synflow"),
        timed_images=100,
    ),
    "laptop": Config(),
    "paper": Config(
        Setup("", dataset="cifar100"),
        models=("vgg11_bn", "vgg16_bn", "resnet18", "wideresnet18"),
        timed_images=5000,
    ),
}


def points(config: Config) -> list[Measured]:
    """One of each model and pruner."""
    if config.setup.model:
        raise RequestError(f"--model {config.setup.model}: expected --models, one or more")
    if not config.models:
        raise RequestError("--models: expected at least one, got none")
    needs_labels(config.pruners)
    found = []
    for model in dict.fromkeys(config.models):
        for pruner in dict.fromkeys(config.pruners):
            setup = replace(config.setup, model=model)
            options = Pruning(pruner=pruner, mode=config.mode, seed=config.seed)
            row = {"compression": config.compression}
            key = {**row, "timed_images": config.timed_images}
            request = (setup, options, config.compression, config.timed_images)
            work, about = partial(_in_a_process, *request), f"{model} {pruner}"
            found.append(measured(TABLE, setup, options, about, work, row, **key))
    return found


run = runner(points, TABLE)


def _in_a_process(*request: Any) -> pd.DataFrame:
    """Peak memory is a process's: a fresh one has no other's."""
    import pandas as pd

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pd.DataFrame([pool.submit(measure, *request).result()])


def measure(
    setup: Setup, options: Pruning, compression: float, timed_images: int
) -> dict[str, float]:
    """Cost of one pruning and of one epoch; the columns of the table.

    Returns:
        ``seconds`` of wall time of a second pruning; ``flops`` of its matrix products and
        convolutions, two a multiplication with its addition; ``samples`` that a scoring sees,
        times scorings; ``peak_bytes`` of the first above what the network and its data take,
        with what the libraries load for it.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from collapse.problem import prepare

    prepared = prepare(setup, options.seed, labelled=needs_labels([options.pruner]))
    once = partial(pruning.prune, prepared, options=options, compression=compression)
    # Memory of the first, because what one has freed the process keeps for the next; time of the
    # second, because the first pays for the start of the libraries.
    before = peak(prepared.device, reset=True)
    once()
    used = peak(prepared.device) - before
    start = time.perf_counter()
    steps = once().steps
    seconds = time.perf_counter() - start
    with FlopCounterMode(display=False) as counter:
        once()
    labelled = needs_labels([options.pruner])
    seen = sum(len(y) for _, y in prepared.batches) if labelled else 0
    return {
        "parameters": masking.total(prepared.dense()),
        "samples": seen * len(steps),
        "seconds": seconds,
        "flops": counter.get_total_flops(),
        "peak_bytes": max(used, 0),
        **_epoch(setup, options.seed, prepared, timed_images),
    }


def _epoch(setup: Setup, seed: int, prepared: Problem, images: int) -> dict[str, float]:
    from torch.utils.flop_counter import FlopCounterMode

    from collapse.train import Trainer, recipes

    train, test = runs.Experiment(setup).datasets()
    classes = train.classes
    part = Training(train_samples=max(1, images // classes) * classes, test_samples=test.classes)
    settings = recipes.resolve(part, setup.model, setup.dataset)
    trainer = Trainer(prepared.model, train, test, settings, seed=seed, output=setup.output)
    trainer.epoch(0, 0)
    seconds = trainer.epoch(0, 1)[0][0]["seconds"]
    with FlopCounterMode(display=False) as both:
        trainer.epoch(0, 2)
    with FlopCounterMode(display=False) as testing:
        trainer.test(0, 2)
    scale = len(train.labels) / (settings.train_samples or 1)
    return {
        "epoch_images": len(train.labels),
        "epoch_seconds": seconds * scale,
        "epoch_flops": (both.get_total_flops() - testing.get_total_flops()) * scale,
    }


def peak(device: torch.device, reset: bool = False) -> int:
    """Bytes at the highest so far; of a CPU, of the whole process, where the system says."""
    if device.type == "cuda":
        import torch

        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, KeyError):
        if reset:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
        lines = Path("/proc/self/status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        return int(status["VmHWM"].split()[0]) * 1024
    return 0
