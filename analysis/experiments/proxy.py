"""Does R at initialisation rank networks by the accuracy that they reach? (experiment 1)

Abdelfattah et al. 2021 ("Zero-cost proxies for lightweight NAS") rank architectures by the sum of
SynFlow's scores, and publish a rank correlation of 0.65 with the accuracy of 191 ImageNet networks.
torchvision publishes the accuracies of its classifiers beside their weights, and nothing has to
be downloaded to read them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from analysis.questions.proxy import TABLE
from analysis.resumable import Measured, runner
from collapse.errors import RequestError, unknown
from collapse.options import Pruning, Setup

if TYPE_CHECKING:
    import pandas as pd

_RECIPE = "IMAGENET1K_V1"  # the one that nearly all of them have, so that recipes differ least
_METRICS = "ImageNet-1K"
# Several networks take the place of one.
_SETUP = Setup("", dataset="gaussian", classes=1000)


@dataclass(frozen=True)
class Config:
    """R and the sum of SynFlow's scores of torchvision's classifiers, beside published accuracies.

    Attributes:
        models: torchvision:NAME; all that have weights of the first recipe without it.
        largest: leave out networks with more parameters than so many millions.
        seeds: of the initialisation.
    """

    setup: Setup = _SETUP
    models: tuple[str, ...] = ()
    largest: float = 100.0
    seeds: tuple[int, ...] = (0,)


PRESETS = {
    "smoke": Config(
        models=(
            "torchvision:squeezenet1_1",
            "torchvision:shufflenet_v2_x0_5",
            "torchvision:mnasnet0_5",
        )
    ),
    "laptop": Config(),
    "paper": Config(largest=math.inf, seeds=(0, 1, 2)),
}


def points(config: Config) -> list[Measured]:
    """One of each network and seed, the smallest networks first.

    Raises:
        RequestError: a model that torchvision publishes no accuracy of, or no seed.
    """
    if config.setup.model:
        model = config.setup.model
        raise RequestError(f"--model {model}: expected --models torchvision:NAME")
    if not config.seeds:
        raise RequestError("--seeds: expected at least one, got none")
    known = _published()
    for name in config.models:
        if name not in known:
            raise unknown("torchvision classifier with a published accuracy", name, known)
    chosen = {name: known[name] for name in config.models or known}
    return [
        _point(config, name, weights, seed)
        for name, weights in sorted(chosen.items(), key=lambda one: one[1].meta["num_params"])
        for seed in dict.fromkeys(config.seeds)
        if weights.meta["num_params"] <= 1e6 * config.largest
    ]


run = runner(points, TABLE)


def _published() -> dict[str, Any]:
    """Weights of torchvision's classifiers by the first recipe, by network."""
    from torchvision import models

    found = {}
    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            if weights.name == _RECIPE and _METRICS in weights.meta.get("_metrics", {}):
                found[f"torchvision:{name}"] = weights
    return found


def _point(config: Config, name: str, weights: Any, seed: int) -> Measured:
    from collapse.problem import settings_row

    size = weights.transforms().crop_size[0]
    setup = replace(config.setup, model=name, input_shape=(3, size, size))
    options = Pruning(pruner="synflow", iterations=1, seed=seed)
    accuracy = weights.meta["_metrics"][_METRICS]["acc@1"]
    shape = (3, size, size)
    row = {**settings_row(setup, shape, options, 1), "published_top1": accuracy}
    # SynFlow sees no data, so that none are drawn, nor are they part of the name.
    key = {"model": setup.model, "init": setup.init, "shape": shape, "seed": seed}

    def rows() -> pd.DataFrame:
        return _measure(setup, seed).assign(**row)

    return Measured(TABLE, key, row, f"{name} seed {seed}", rows)


def _measure(setup: Setup, seed: int) -> pd.DataFrame:
    import pandas as pd
    import torch
    from torch import nn

    from collapse.masks import sums
    from collapse.models import build
    from collapse.problem import Problem, choose_device
    from collapse.scores import ScoreInputs, score

    shape = setup.input_shape or (3, 224, 224)
    model = build(setup.model, input_shape=shape, classes=setup.classes or 1000, init=setup.init,
                  seed=seed)  # fmt: skip
    example = torch.zeros(1, *shape)  # SynFlow takes the shape alone
    device = choose_device(setup.device)
    problem = Problem(model.to(device), [(example.to(device), torch.zeros(1))], setup.output)
    masks = problem.dense()
    found = score(problem.model, "synflow", masks, ScoreInputs(problem.batches, seed=seed))
    row = {
        "parameters": sum(p.numel() for p in problem.model.parameters()),
        "layers": len(masks),
        "layer_norms": sum(isinstance(module, nn.LayerNorm) for module in model.modules()),
        "log10_R": _log10(found.total or 0.0, found.exponent),
        "log10_score_sum": _log10(math.fsum(s for s, *_ in sums(found).values()), found.exponent),
    }
    return pd.DataFrame([row])


def _log10(value: float, exponent: int) -> float:
    """Of ``value * 2**exponent``, which need not be a float; NaN where it is not positive."""
    return math.log10(value) + exponent * math.log10(2) if value > 0 else math.nan
