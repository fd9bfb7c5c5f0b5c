"""Masks: exact-k selection, application, density, files.

A mask is a boolean tensor by parameter name; True is kept. Of equal scores the one that comes
first is kept: parameters in the model's order, then flat index. There is no minimum a layer.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from collapse.errors import RequestError, first_line, unknown
from collapse.files import atomic
from collapse.models import Masks, all_finite, prunable
from collapse.options import Scope
from collapse.selection import drop_lowest, in_memory_order, like


def dense(model: nn.Module, *, biases: bool = False, batchnorm: bool = False) -> Masks:
    """Masks that keep everything prunable (see ``models.prunable``)."""
    tensors = prunable(model, biases=biases, batchnorm=batchnorm)
    return {name: _ones(p) for name, p in tensors.items()}


def _ones(like: Tensor) -> Tensor:
    """Contiguous whatever the memory format, because ties are decided in the order of memory."""
    return torch.ones(like.shape, dtype=torch.bool, device=like.device)


def total(masks: Mapping[str, Tensor]) -> int:
    """``N``, the number of prunable parameters."""
    return sum(mask.numel() for mask in masks.values())


def kept(masks: Mapping[str, Tensor]) -> int:
    """The number of parameters kept."""
    return sum(kept_by_layer(masks).values())


def kept_by_layer(masks: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of parameters kept, layer by layer."""
    return {name: _count(mask) for name, mask in masks.items()}


def _count(mask: Tensor) -> int:
    """NumPy counts five times faster."""
    on_cpu = mask.device.type == "cpu"
    return int(np.count_nonzero(mask.numpy()) if on_cpu else mask.count_nonzero())


def sizes(masks: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of parameters, layer by layer."""
    return {name: mask.numel() for name, mask in masks.items()}


def sums(scores: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Sum, and sum of absolute values, of each layer's scores, accumulated in float64."""
    return {name: (_sum64(s), _sum64(s.abs())) for name, s in scores.items()}


def density(masks: Mapping[str, Tensor]) -> float:
    """kept / total, between 0 and 1."""
    return kept(masks) / total(masks)


def collapsed(masks: Mapping[str, Tensor]) -> list[str]:
    """The layers with no parameter left, in parameter order."""
    return [name for name, count in kept_by_layer(masks).items() if count == 0]


def keep_count(parameters: int, compression: float) -> int:
    """``k = ceil(N / compression)``, the number of parameters that a compression keeps.

    A quotient within rounding of a whole number is that number, so that ``keep_count(N, N / k)``
    is ``k`` although ``N / k`` was rounded.

    Raises:
        RequestError: compression below 1 or not finite.
    """
    if not (math.isfinite(compression) and compression >= 1):
        raise RequestError(
            f"compression is total / kept: expected a finite number from 1 up, got {compression}"
        )
    quotient = parameters / compression
    nearest = round(quotient)
    slack = 4 * sys.float_info.epsilon * quotient
    return nearest if abs(quotient - nearest) <= slack else math.ceil(quotient)


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


def apportion(sizes: Sequence[int], keep: int) -> list[int]:
    """Divide ``keep`` over layers in proportion to their sizes, in whole numbers.

    Webster's method (1832): the ``keep`` largest of the quotients ``size / (2 j + 1)``, ties to
    the earlier layer. Unlike largest remainders it never gives a layer more when ``keep`` falls,
    so masks of one scoring stay nested; unlike rounding it adds up exactly.
    """
    if keep > sum(sizes):
        raise RequestError(f"expected to keep at most {sum(sizes)}, got {keep}")
    shares = [min(size, keep * size // sum(sizes)) for size in sizes]
    while (missing := keep - sum(shares)) != 0:
        step = 1 if missing > 0 else -1
        shares[_webster_next(sizes, shares, step)] += step
    # The start was near, not exact: move seats while one layer's next claim beats another's last.
    while True:
        gain, loss = _webster_next(sizes, shares, 1), _webster_next(sizes, shares, -1)
        if not _claim(sizes, shares, gain, 0) < _claim(sizes, shares, loss, -1):
            return shares
        shares[gain] += 1
        shares[loss] -= 1


def _claim(sizes: Sequence[int], shares: Sequence[int], layer: int, seat: int) -> tuple[float, int]:
    """A claim's place in the queue (smaller is earlier) for a layer's next (0) or last (-1)."""
    return ((2 * (shares[layer] + seat) + 1) / sizes[layer], layer)


def _webster_next(sizes: Sequence[int], shares: Sequence[int], step: int) -> int:
    """The layer that gains (step 1) or loses (step -1) the next seat."""
    layers = range(len(sizes))
    if step > 0:
        open_layers = [i for i in layers if shares[i] < sizes[i]] or list(layers)
        return min(open_layers, key=lambda i: _claim(sizes, shares, i, 0))
    filled = [i for i in layers if shares[i] > 0] or list(layers)
    return max(filled, key=lambda i: _claim(sizes, shares, i, -1))


@torch.no_grad()
def apply(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set every pruned parameter of the model to zero, in place.

    Raises:
        RequestError: the masks are of another network.
    """
    check_fit(model, masks)
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        parameters[name].masked_fill_(~mask, 0)  # a product would leave signs of zero


@contextmanager
def applied(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """The model with pruned parameters at zero, inside the block only; bit-identical after it."""
    check_fit(model, masks)
    parameters = dict(model.named_parameters())
    before = {name: parameters[name].detach().clone() for name in masks}
    try:
        apply(model, masks)
        yield model
    finally:
        with torch.no_grad():
            for name, value in before.items():
                parameters[name].copy_(value)


def check_fit(model: nn.Module, masks: Mapping[str, Tensor], where: str = "masks") -> None:
    """Raise RequestError unless every mask has a parameter of its name and shape in the model."""
    parameters = dict(model.named_parameters())
    if not masks:
        raise RequestError(f"{where} are empty: expected one mask a layer")
    for name, mask in masks.items():
        if name not in parameters:
            raise RequestError(f"{where} are of another network: the model has no '{name}'")
        if mask.shape != parameters[name].shape:
            raise RequestError(
                f"{where} are of another network: '{name}' expected shape "
                f"{tuple(parameters[name].shape)}, got {tuple(mask.shape)}"
            )


def save_masks(masks: Mapping[str, Tensor], path: Path, **metadata: str) -> None:
    """Write masks as safetensors, whole or not at all, with their order and any metadata."""
    tensors = {name: mask.to("cpu", torch.bool).contiguous() for name, mask in masks.items()}
    # A state dict on disk is sorted; parameter order decides ties, so it is kept apart. One key
    # only: safetensors writes several in any order, and equal masks give equal files.
    about = {"collapse": json.dumps({"order": list(masks), **metadata})}
    with atomic(Path(path)) as temporary:
        temporary.write_bytes(save(tensors, about))


def load_masks(path: Path, model: nn.Module | None = None) -> Masks:
    """Read masks written by ``save_masks``, onto the model's device if one is given.

    Raises:
        RequestError: missing, truncated or foreign file, or masks of another network.
    """
    if not Path(path).is_file():
        raise RequestError(f"masks '{path}' cannot be read: expected a file, there is none")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("collapse", "{}"))
            order = metadata.get("order", list(file.keys()))
            masks = {name: file.get_tensor(name) for name in order}
    except (OSError, SafetensorError, ValueError) as error:
        raise RequestError(f"masks '{path}' cannot be read: {first_line(error)}") from error
    if any(mask.dtype != torch.bool for mask in masks.values()):
        raise RequestError(f"masks '{path}' hold no masks: expected boolean tensors")
    if model is not None:
        check_fit(model, masks, f"masks '{path}'")
        for name in prunable(model):
            if name not in masks:
                raise RequestError(f"masks '{path}' are of another network: no mask of '{name}'")
        devices = {name: p.device for name, p in model.named_parameters()}
        masks = {name: mask.to(devices[name]) for name, mask in masks.items()}
    return masks


def to_torch_prune(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Hand masks over to ``torch.nn.utils.prune``, in place, on every module that uses a weight.

    Afterwards each such module has ``weight_orig`` and ``weight_mask``, as if pruned there.
    """
    check_fit(model, masks)
    by_id = {id(p): masks[name] for name, p in model.named_parameters() if name in masks}
    for module in list(model.modules()):
        for attribute, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in by_id:
                torch_prune.custom_from_mask(  # type: ignore[no-untyped-call]  # torch's own
                    module, attribute, by_id[id(parameter)]
                )


def _sum64(values: Tensor) -> float:
    if values.device.type == "cpu":
        return float(values.numpy().sum(dtype=np.float64))
    if values.device.type == "mps":  # which has no float64
        return _sum64(values.cpu())
    return float(values.sum(dtype=torch.float64))
