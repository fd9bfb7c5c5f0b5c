"""Do masks by data choose units, as the theory of their graph limits says? (experiment 2)

Pham et al. 2025 ("The graphon limit hypothesis", arXiv 2510.17515) and their sequel of 2026
(2602.06675): as a network grows, the masks of random and magnitude pruning tend to a homogeneous
graph and those of SNIP and GraSP to one in which units differ: they choose features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from analysis.experiments.shared import MODE, PRUNERS, given, measured, needs_labels
from analysis.questions.features import TABLE
from analysis.resumable import Measured, runner
from collapse.errors import RequestError
from collapse.options import Mode, Pruning, Setup

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from collapse.problem import Problem

_PERCEPTRON = Setup(f"{__name__}:perceptron", init="kaiming")


@dataclass(frozen=True)
class Config:
    """How unevenly a mask's weights lie over units, beyond chance, as a network grows.

    The model is a function of input_shape=, classes= and width= whose first two layers are linear.

    Attributes:
        widths: of the network's layers.
        pruners: see python -m collapse.critical.
        compressions: to which the network is pruned.
        mode: in which snip and grasp are scored.
        seeds: of initialisation and samples.
    """

    setup: Setup = _PERCEPTRON
    widths: tuple[int, ...] = (64, 256, 1024)
    pruners: tuple[str, ...] = PRUNERS
    compressions: tuple[float, ...] = (10.0,)
    mode: Mode = MODE
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


PRESETS = {
    "smoke": Config(widths=(16, 32), pruners=("random", "snip"), seeds=(0, 1, 2)),
    "laptop": Config(),
    "paper": Config(
        widths=(64, 128, 256, 512, 1024, 2048, 4096), compressions=(10.0, 100.0), seeds=(*range(9),)
    ),
}


def points(config: Config) -> list[Measured]:
    """One of each width, seed, compression and pruner.

    Raises:
        RequestError: one of the lists is empty or holds what cannot be.
    """
    needs_labels(config.pruners)
    for name, values in (("widths", config.widths), ("seeds", config.seeds)):
        if not values:
            raise RequestError(f"--{name}: expected at least one, got none")
    if min(config.widths) < 2:
        raise RequestError(f"--widths: expected 2 units or more, got {min(config.widths)}")
    return [
        _point(config, width, Pruning(pruner=pruner, mode=config.mode, seed=seed), compression)
        for width in dict.fromkeys(config.widths)
        for seed in dict.fromkeys(config.seeds)
        for compression in given(config.compressions)
        for pruner in dict.fromkeys(config.pruners)
    ]


run = runner(points, TABLE)


def perceptron(input_shape: tuple[int, ...], classes: int, width: int = 64) -> nn.Module:
    """Inputs → width → width → classes."""
    from torch import nn

    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(math.prod(input_shape), width), nn.ReLU()),
        *(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)),
    )


def _point(config: Config, width: int, options: Pruning, compression: float) -> Measured:
    about = f"width {width} {options.pruner} seed {options.seed}"
    known = {"width": width, "compression": compression}
    measure = partial(_measured, config.setup, width, options, compression)
    return measured(TABLE, config.setup, options, about, measure, known, **known)


def _measured(setup: Setup, width: int, options: Pruning, compression: float) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(_rows(setup, width, options, compression))


def _rows(
    setup: Setup, width: int, options: Pruning, compression: float
) -> Iterator[dict[str, Any]]:
    from collapse.pruning import prune

    problem = _problem(setup, width, options.seed)
    masks = prune(problem, options=options, compression=compression).masks
    for index, (layer, mask) in enumerate([*masks.items()][:2], start=1):
        if mask.ndim != 2:
            raise RequestError(f"expected '{layer}' to be linear, got shape {tuple(mask.shape)}")
        for side, sums in (("in", mask.sum(0)), ("out", mask.sum(1))):
            found = {"layer": layer, "layer_index": index, "side": side, "kept": int(mask.sum())}
            yield found | {"excess": excess(sums, mask.numel() // len(sums))}


@lru_cache(maxsize=1)
def _problem(setup: Setup, width: int, seed: int) -> Problem:
    """Kept for the next pruner."""
    import torch

    from collapse.data import load
    from collapse.models import import_user, initialise, moved
    from collapse.problem import Problem, choose_device
    from collapse.seeding import derive

    images = load(
        setup.dataset,
        root=setup.data_root,
        input_shape=setup.input_shape,
        classes=setup.classes,
        seed=seed,
    )
    torch.manual_seed(derive(seed, "features", width))
    make = partial(import_user(setup.model, "model"), width=width)
    model = make(input_shape=images.input_shape, classes=images.classes)
    initialise(model, setup.init or "kaiming")
    batches = images.score_batches(
        setup.samples_per_class, samples=setup.samples, batch_size=setup.batch_size, seed=seed
    )
    device = choose_device(setup.device)
    return Problem(model.to(device), moved(batches, device))


def excess(kept: Tensor, weights: int) -> float:
    """How unevenly a layer's kept weights lie over its units, beyond chance.

    The squared coefficient of variation of the counts, less that of a binomial distribution: 0 on
    average where each weight is kept with the same probability, whatever the size, and positive
    where units differ. NaN where nothing is kept.

    Args:
        kept: of each unit ``[n]``.
        weights: how many each unit has.
    """
    counts = kept.double()
    mean = counts.mean()
    chance = mean * (1 - mean / weights)
    return float((counts.var() - chance) / mean**2)
