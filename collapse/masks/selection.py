"""Exact-k selection: the highest scores, ties by a stated order."""

from __future__ import annotations

import numbers
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from collapse.errors import RequestError, unknown
from collapse.masks.counts import count, full, kept, kept_by_layer, sum64
from collapse.masks.shares import apportion
from collapse.models import Masks, all_finite
from collapse.options import Scope


def select(
    scores: Mapping[str, Tensor],
    keep: int,
    *,
    masks: Mapping[str, Tensor] | None = None,
    scope: Scope | Mapping[str, int] = "global",
) -> Masks:
    """Keep exactly the ``keep`` highest scores among the survivors.

    Args:
        scores: one tensor a layer, in parameter order.
        keep: how many in all.
        masks: the survivors, in the scores' shapes; pruned stays pruned. None: all survive.
        scope: rank all layers together, or divide ``keep`` over the layers in proportion to
            their sizes (``apportion``) and rank within each; or how many of each layer.

    Raises:
        RequestError: fewer survivors than ``keep``, ``keep`` below 0 or no whole number, numbers of
            the layers that do not add up to it, masks that do not fit the scores, or a surviving
            score that is NaN or infinite (its layer is named).

    Example:
        >>> select({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 2.0])}, 2)["b"]
        tensor([ True, False])
    """
    if masks is None:
        masks = {name: full(s) for name, s in scores.items()}
    return select_with_mass(scores, keep, masks, scope)[0]


def select_with_mass(
    scores: Mapping[str, Tensor],
    keep: int,
    masks: Mapping[str, Tensor],
    scope: Scope | Mapping[str, int] = "global",
    sizes: Mapping[str, int] | None = None,
) -> tuple[Masks, float]:
    """``select``, and the sum of the survivors' scores that it removes (in float64).

    Args:
        sizes: parameters of each layer, where the scores are of a part of them only.

    Raises:
        RequestError: as ``select``.
    """
    _check_alike(scores, masks)
    alive = kept_by_layer(masks)
    if not isinstance(keep, numbers.Integral):
        raise RequestError(f"keep: expected a whole number, got {keep!r}")
    if not 0 <= keep <= sum(alive.values()):
        raise RequestError(
            f"expected to keep between 0 and {sum(alive.values())} survivors, got {keep}"
        )
    if scope == "global":
        return _highest(scores, keep, masks)
    if scope == "layer":
        whole = {name: (sizes or {}).get(name, score.numel()) for name, score in scores.items()}
        shares = dict(zip(whole, apportion(list(whole.values()), keep), strict=True))
    elif isinstance(scope, Mapping):
        shares = dict(scope)
        if sum(shares.values()) != keep or shares.keys() != scores.keys():
            raise RequestError(
                f"expected a number for each layer, {keep} in all, got {sum(shares.values())} for "
                f"{len(shares)} of {len(scores)} layers"
            )
    else:
        raise unknown("scope", scope, ("global", "layer"))
    chosen: Masks = {}
    mass = 0.0
    for name, score in scores.items():
        if shares[name] > alive[name]:
            raise RequestError(
                f"layer '{name}' has {alive[name]:,} survivors left: expected at least its share "
                f"of {shares[name]:,} of what the layer scope keeps (the global scope has no "
                "shares)"
            )
        mask, lost = _highest({name: score}, shares[name], {name: masks[name]})
        chosen.update(mask)
        mass += lost
    return chosen, mass


def _check_alike(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Raise RequestError unless there is a mask of the same shape for each tensor of scores."""
    if not scores:
        raise RequestError("scores are empty: expected a tensor a layer")
    for name, score in scores.items():
        if name not in masks or masks[name].shape != score.shape:
            got = f"one of {tuple(masks[name].shape)}" if name in masks else "none"
            raise RequestError(
                f"scores of layer '{name}' have shape {tuple(score.shape)}: expected a mask of "
                f"that shape, got {got}"
            )


def _highest(
    scores: Mapping[str, Tensor], keep: int, masks: Mapping[str, Tensor]
) -> tuple[Masks, float]:
    """The ``keep`` highest survivors of several layers ranked together, and the mass removed."""
    survivors = gather(scores, masks)
    drop = survivors.numel() - keep
    if keep == 0:
        return {name: torch.zeros_like(masks[name]) for name in scores}, sum64(survivors)
    survivors = _partitioned(survivors, drop)
    threshold, mass = survivors[drop].clone(), sum64(survivors[:drop])
    # All above the threshold, and of those equal to it the first ones until there are `keep`.
    chosen = {
        name: (score > threshold).logical_and_(masks[name]).contiguous()
        for name, score in scores.items()
    }
    missing = keep - kept(chosen)
    for name, score in scores.items():
        if missing == 0:
            break
        ties = torch.nonzero((score == threshold).logical_and_(masks[name]).flatten()).flatten()
        chosen[name].view(-1)[ties[:missing]] = True
        missing -= min(missing, len(ties))
    return chosen, mass


def _partitioned(values: Tensor, place: int) -> Tensor:
    """All below ``place``, then what a sort would put there, then all above."""
    if values.device.type != "cpu":
        return values.sort().values
    values.numpy().partition(place)  # in place; torch's own takes a copy and 8-byte indices
    return values


def gather(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
    """All surviving scores as one flat tensor, in parameter order; not a view.

    Raises:
        RequestError: a surviving score is NaN or infinite; its layer is named.
    """
    parts = []
    for name, score in scores.items():
        mask, part = masks[name].flatten(), score.flatten()
        if count(mask) < mask.numel():
            on_cpu = score.device.type == "cpu"  # where NumPy's indexing is the faster one
            chosen = np.compress(mask.numpy(), part.numpy()) if on_cpu else None
            part = part[mask] if chosen is None else torch.from_numpy(chosen)
        _check_finite(name, part)
        parts.append(part)
    return torch.cat(parts)


def _check_finite(name: str, scores: Tensor) -> None:
    if not all_finite(scores):
        raise RequestError(f"scores of layer '{name}' are not finite: cannot rank them")


def first_to_collapse(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> tuple[str, int]:
    """The layer that a global ranking empties first, and how many must be kept to spare it.

    The first layer to collapse is the one whose largest surviving score is smallest. The rank of
    that score (1 for the highest of all survivors) is the critical number to keep: keep fewer and
    the layer is empty. Ties as in ``select``.

    Raises:
        RequestError: a layer has no survivor to begin with, or a surviving score that is NaN or
            infinite.
    """
    weakest, threshold, before = "", float("inf"), 0
    for name, score in scores.items():
        values = score[masks[name]]
        if not values.numel():
            raise RequestError(f"layer '{name}' has already collapsed")
        _check_finite(name, values)
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
