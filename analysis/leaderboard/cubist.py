"""A problem whose sparsest networks are known: the Cubist Spiral, solved by 30 to 45 weights.

Zhang & Papyan 2024, "Sparsest models elude pruning: an exposé of pruning's current capabilities":
a combinatorial search found networks of 30 (95 % accuracy) to 45 (99.5 %) weights that no pruner
finds, and blames paths that pruning disconnects. Here: how many of so few weights do anything?
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse import masks as masking
from collapse import tables
from collapse.connectivity import living
from collapse.errors import RequestError
from collapse.options import Pruning
from collapse.problem import Problem
from collapse.pruning import iterations_of, prune
from collapse.scores import load_pruner, mode_of
from collapse.seeding import generator

TABLE = tables.declare(
    "cubist",
    *tables.SETTINGS,
    *("parameters", "kept", "alive", "dead_share", "cut", "empty_layers", "problem"),
)
KEPT = (30, 35, 40, 45)


def spiral(samples: int = 512) -> tuple[Tensor, Tensor]:
    """Two arms of straight pieces, an octagon that winds twice; standardised.

    The corners of the arms are at ``r ± 15`` with ``r = 10 θ + π`` for 17 angles ``θ`` from 1.4 π
    to 5.4 π.

    Args:
        samples: points in all, half of each class, evenly along its arm.

    Returns:
        Points ``[samples, 2]`` and classes ``[samples]``, 0 for the outer arm.

    Raises:
        RequestError: no point for each class.
    """
    if samples < 2:
        raise RequestError(f"spiral: expected at least 2 samples, got {samples}")
    angles = torch.linspace(1.4, 5.4, 17, dtype=torch.float64) * torch.pi
    direction = torch.stack([angles.cos(), angles.sin()], dim=1)
    radius = (10 * angles + torch.pi)[:, None]
    arms = [_along(direction * (radius + shift), samples // 2) for shift in (15, -15)]
    x = torch.cat(arms)
    x = (x - x.mean(0)) / x.std(0)
    return x.float(), torch.arange(2).repeat_interleave(samples // 2)


def _along(corners: Tensor, count: int) -> Tensor:
    """Points at equal distances along a line through corners."""
    lengths = (corners[1:] - corners[:-1]).norm(dim=1)
    starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    places = torch.linspace(0, 1, count, dtype=corners.dtype) * starts[-1]
    piece = (torch.searchsorted(starts, places, right=True) - 1).clamp(max=len(lengths) - 1)
    share = ((places - starts[piece]) / lengths[piece])[:, None]
    points: Tensor = corners[piece] * (1 - share) + corners[piece + 1] * share
    return points


def mlp(width: int = 16, seed: int = 0) -> nn.Module:
    """The paper's network: four layers with biases, one output, ReLU."""
    sizes = (2, width, width, width, 1)
    layers: list[nn.Module] = []
    draw = generator(seed, "cubist mlp")
    for inputs, outputs in itertools.pairwise(sizes):
        layer = nn.Linear(inputs, outputs)
        with torch.no_grad():  # torch's own uniform initialisation, from a stream of its own
            for tensor in layer.parameters():
                tensor.copy_((torch.rand(tensor.shape, generator=draw) * 2 - 1) / inputs**0.5)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of one output: the logit of the second class."""
    return F.binary_cross_entropy_with_logits(outputs.squeeze(1), targets.to(outputs.dtype))


def optima(
    pruners: Sequence[str],
    *,
    kept: Sequence[int] = KEPT,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    width: int = 16,
) -> pd.DataFrame:
    """Every pruner from the dense network to as few weights as the known optima have.

    Returns:
        One row a pruner, number kept and seed: ``alive`` weights on an input→output path,
        ``dead_share`` of those kept, whether the network is ``cut``, ``empty_layers``, and the
        ``problem`` where a pruner failed.

    Raises:
        RequestError: an unknown pruner.
    """
    x, y = spiral()
    rows = []
    for pruner in map(load_pruner, dict.fromkeys(pruners)):
        for seed in seeds:
            problem = Problem(mlp(width, seed), [(x, y)], loss=loss)
            for count in kept:
                options = Pruning(pruner, seed=seed)
                rows.append({**_settings(options, width), **_row(problem, options, count)})
    return pd.DataFrame(rows, columns=list(tables.COLUMNS[TABLE]))


def _settings(options: Pruning, width: int) -> dict[str, object]:
    return {
        "model": f"mlp-2-{width}-{width}-{width}-1",
        "dataset": "cubist-spiral",
        "input_shape": "2",
        "pruner": options.pruner,
        "iterations": iterations_of(options),
        "schedule": options.schedule,
        "scope": options.ranks,
        "mode": mode_of(options.pruner, None),
        "seed": options.seed,
    }


def _row(problem: Problem, options: Pruning, count: int) -> dict[str, object]:
    known = {"parameters": masking.total(problem.start()), "kept": count}
    try:
        masks = prune(problem, options=options, keep=count).masks
    except RequestError as error:
        return {**known, "problem": str(error)}
    alive = masking.kept(living(problem.model, masks, problem.example))
    return {
        **known,
        "alive": alive,
        "dead_share": 1 - alive / count,
        "cut": alive == 0,
        "empty_layers": len(masking.collapsed(masks)),
    }
