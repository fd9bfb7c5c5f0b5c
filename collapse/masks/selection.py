"""Exact-k selection: the highest scores, ties by a stated order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from collapse.errors import RequestError, unknown
from collapse.masks.counts import _count, _ones, _sum64, kept
from collapse.masks.lowest import drop_lowest, in_memory_order, like
from collapse.masks.shares import apportion
from collapse.models import Masks, all_finite
from collapse.options import Scope


def select(
    scores: Mapping[str, Tensor],
    keep: int,
    *,
    masks: Mapping[str, Tensor] | None = None,
    scope: Scope = "global",
) -> Masks:
    """Keep exactly the ``keep`` highest scores among the survivors.

    Args:
        scores: one tensor a layer, in parameter order.
        keep: how many in all.
        masks: the survivors; pruned stays pruned. Everything without it.
        scope: rank all layers together, or divide ``keep`` over the layers in proportion to
            their sizes (``apportion``) and rank within each.

    Raises:
        RequestError: fewer survivors than ``keep``, ``keep`` below 0, or a surviving score that is
            NaN or infinite (its layer is named).
    """
    if masks is None:
        masks = {name: _ones(s) for name, s in scores.items()}
    chosen = select_weighing(scores, keep, masks, scope).masks
    return {name: mask.contiguous() for name, mask in chosen.items()}


class Selection(NamedTuple):
    """What ``select_weighing`` chose.

    Attributes:
        masks: may be in the memory format of the scores, so that the next scoring is fast.
        mass: the sum of the scores that were removed (in float64).
        gone: the places that the masks have lost, by layer, in the order of memory; None where
            they were not counted one by one.
    """

    masks: Masks
    mass: float
    gone: dict[str, Tensor] | None = None


def select_weighing(
    scores: Mapping[str, Tensor],
    keep: int,
    masks: Mapping[str, Tensor],
    scope: Scope = "global",
    sizes: Mapping[str, int] | None = None,
    alive: int | None = None,
) -> Selection:
    """``select``, and what it removes.

    Args:
        sizes: of the layers, where the scores are of a part of them only.
        alive: the number of survivors, counted without it.
    """
    alive = kept(masks) if alive is None else alive
    if not 0 <= keep <= alive:
        raise RequestError(f"expected to keep between 0 and {alive} survivors, got {keep}")
    if scope not in ("global", "layer"):
        raise unknown("scope", scope, ("global", "layer"))
    if scope == "global":
        return _select_group(scores, keep, masks, alive)
    result: Masks = {}
    mass = 0.0
    shares = apportion([(sizes or {}).get(n, s.numel()) for n, s in scores.items()], keep)
    for (name, score), share in zip(scores.items(), shares, strict=True):
        counted = _count(masks[name])
        if share > counted:
            raise RequestError(
                f"layer '{name}' has {counted:,} survivors left: expected at least its share of "
                f"{share:,} of what the layer scope keeps (the global scope has no shares)"
            )
        part = _select_group({name: score}, share, {name: masks[name]}, counted)
        result.update(part.masks)
        mass += part.mass
    return Selection(result, mass)


def _select_group(
    scores: Mapping[str, Tensor], keep: int, masks: Mapping[str, Tensor], alive: int
) -> Selection:
    """The ``keep`` highest survivors of several layers ranked together, and the mass removed."""
    few = 0 < alive - keep <= alive // 5  # beyond, a partition of all is as fast
    if few and _finite_on_cpu(scores):
        found = drop_lowest(scores, masks, alive, alive - keep)
        if found is not None:
            gone, mass = found
            result = {name: like(masks[name], score).clone() for name, score in scores.items()}
            for name, places in gone.items():
                in_memory_order(result[name]).numpy()[places.numpy()] = False
            return Selection(result, mass, gone)
    survivors = gather(scores, masks)
    drop = survivors.numel() - keep
    if drop == 0:
        return Selection({name: masks[name].clone() for name in scores}, 0.0)
    if keep == 0:
        mass = _sum64(survivors)
        return Selection({name: torch.zeros_like(masks[name]) for name in scores}, mass)
    # NumPy's selection is in place and vectorised: torch's takes a copy and 8-byte indices.
    if survivors.device.type == "cpu":
        survivors.numpy().partition(drop)
    else:
        survivors = survivors.sort().values
    threshold, mass = survivors[drop].clone(), _sum64(survivors[:drop])
    # All above the threshold, and of those equal to it the first ones until there are `keep`.
    result = {
        name: (score > threshold).logical_and_(masks[name]).contiguous()
        for name, score in scores.items()
    }
    missing = keep - kept(result)
    for name, score in scores.items():
        if missing == 0:
            break
        ties = torch.nonzero((score == threshold).logical_and_(masks[name]).flatten()).flatten()
        result[name].view(-1)[ties[:missing]] = True
        missing -= min(missing, len(ties))
    return Selection(result, mass)


def _finite_on_cpu(scores: Mapping[str, Tensor]) -> bool:
    known = getattr(scores, "finite", False)
    return all(s.device.type == "cpu" and (known or all_finite(s)) for s in scores.values())


def gather(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
    """All surviving scores as one flat tensor, in parameter order; not a view.

    Raises:
        RequestError: a surviving score is NaN or infinite; its layer is named.
    """
    parts = []
    for name, score in scores.items():
        mask, part = masks[name].flatten(), score.flatten()
        if _count(mask) < mask.numel():
            on_cpu = score.device.type == "cpu"  # NumPy is ten times faster than torch's indexing
            chosen = np.compress(mask.numpy(), part.numpy()) if on_cpu else None
            part = part[mask] if chosen is None else torch.from_numpy(chosen)
        if not all_finite(part):
            raise RequestError(f"scores of layer '{name}' are not finite: cannot rank them")
        parts.append(part)
    return torch.cat(parts)


def first_to_collapse(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> tuple[str, int]:
    """The layer that a global ranking empties first, and how many must be kept to spare it.

    The first layer to collapse is the one whose largest surviving score is smallest. The rank of
    that score (1 for the highest of all survivors) is the critical number to keep: keep fewer and
    the layer is empty. Ties as in ``select``.

    Raises:
        RequestError: a layer has no survivor to begin with.
    """
    weakest, threshold, before = "", float("inf"), 0
    for name, score in scores.items():
        values = score[masks[name]]
        if not values.numel():
            raise RequestError(f"layer '{name}' has already collapsed")
        # In a tie the later layer's best ranks lower, so `<=` lets it take the place.
        if float(values.max()) <= threshold:
            weakest, threshold = name, float(values.max())
    rank = 1
    for name, score in scores.items():
        values = score[masks[name]]
        rank += int((values > threshold).count_nonzero())
        if name == weakest:
            before = 1
        elif not before:
            rank += int((values == threshold).count_nonzero())
    return weakest, rank
