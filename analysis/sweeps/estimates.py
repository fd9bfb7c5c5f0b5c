"""How long a training will take, before it begins.

A small batch of the dense network is trained and timed, on the device, with the trainer that will
be used. What the masks leave is trained as a smaller network (``train.smaller``), in the share of
that time that ``SHARES`` says: measured once, because pruning every network first takes hours.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import lru_cache

from collapse.options import Setup
from collapse.problem import prepare
from collapse.runs import Experiment
from collapse.train.loop import Trainer
from collapse.train.recipes import Settings

# (compression, time of an image beside the dense network's): medians of VGG-11-BN, VGG-16-BN and
# ResNet-18 on CIFAR, bfloat16, one thread of an AMD EPYC, torch 2.15.0, 2026-11-30. At 1,000
# GraSP left a path in ResNet-18 alone. From network to network they differ by 1.7 at most.
SHARES: dict[str, tuple[tuple[float, float], ...]] = {
    "synflow": ((1, 1.0), (10, 0.70), (100, 0.29), (1_000, 0.077), (100_000, 0.023)),
    "snip": ((1, 1.0), (10, 0.96), (100, 0.60), (1_000, 0.21)),
    "grasp": ((1, 1.0), (10, 1.0), (100, 0.68), (1_000, 0.30)),
}
_POSITIONS = 32 * 32 * 32  # of the images of the batch that is timed


def seconds(experiment: Experiment, device: str) -> float:
    """About how long the run takes on this machine, if nothing else does.

    On a GPU the smaller network counts as the dense one: its launches, not its operations, take
    the time. So does what rounds of training and pruning leave, whose size is known only then.
    """
    settings = experiment.settings()
    train, test = experiment.datasets()
    an_image, a_test = _speed(experiment.setup, settings)
    images = settings.train_samples or len(train.labels)
    tests = settings.test_samples or len(test.labels)
    share = 1.0
    if device == "cpu" and experiment.rewinding.levels == 0 and experiment.control is None:
        share = share_of(experiment.pruning.pruner, experiment.compression)
    return experiment.epochs() * (images * an_image + tests * a_test) * share


def share_of(pruner: str, compression: float) -> float:
    """The time of an image beside the dense network's: between those measured, on a log scale."""
    known = SHARES.get(pruner, ((1.0, 1.0),))
    for (low, before), (high, after) in itertools.pairwise(known):
        if compression <= high:
            part = math.log(compression / low) / math.log(high / low)
            return before * math.exp(part * math.log(after / before))
    return known[-1][1]


@lru_cache(maxsize=64)
def _speed(setup: Setup, settings: Settings) -> tuple[float, float]:
    """Seconds an image of training the dense network, and of testing it."""
    dataset = Experiment(setup).datasets()[0]
    batch = max(1, min(_POSITIONS // math.prod(dataset.input_shape[1:]), len(dataset.labels)))
    few = replace(dataset, images=dataset.images[:batch], labels=dataset.labels[:batch])
    problem = prepare(setup, 0, labelled=False, dataset=dataset)
    # At this rate two steps cannot diverge.
    small = replace(
        settings, lr=1e-9, train_samples=None, test_samples=None, train_batch_size=batch
    )
    trainer = Trainer(problem.model, few, few, small, output=problem.output)
    trainer.epoch(0, 0)  # libraries choose their kernels in the first step
    trained, tested = trainer.epoch(0, 1)[0]
    return trained["seconds"] / batch, tested["seconds"] / batch


def gaps(count: int) -> list[int]:
    """How wide a gap in a curve of ``count`` points each one fills: ``[4, 1, 2, 1, 4]`` for five.

    Both ends come first and fill the whole; then the middle of the widest gap, again and again.
    """
    filled = [0] * count
    taken = sorted({0, count - 1} & set(range(count)))
    for end in taken:
        filled[end] = max(count - 1, 1)
    while len(taken) < count:
        low, high = max(itertools.pairwise(taken), key=lambda gap: gap[1] - gap[0])
        middle = (low + high) // 2
        filled[middle] = (high - low) // 2
        taken = sorted([*taken, middle])
    return filled
