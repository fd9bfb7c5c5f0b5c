"""The lowest survivors of a ranking, exactly, at a cost that falls with how many go.

Ranking all survivors to remove a few percent of them is what a hundred iterations spend their time
on. A sample tells roughly where the threshold lies; only what is below that is looked at closely.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

_SAMPLE = 1 << 16  # places that are looked at to guess the threshold


def drop_lowest(
    scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], alive: int, drop: int
) -> tuple[dict[str, Tensor], float] | None:
    """Remove the ``drop`` lowest survivors; of equal scores the last ones in index order go.

    On the CPU. Finite scores only.

    Args:
        scores: by layer, in order; contiguous or channels_last.
        masks: the survivors.
        alive: how many they are.
        drop: at least 1 and below that.

    Returns:
        New masks, in the memory format of the scores, and the sum of the scores removed (float64);
        None where the sample guessed the threshold too low.
    """
    flat = {name: _in_memory_order(score) for name, score in scores.items()}
    ours = {name: _like(masks[name], score) for name, score in scores.items()}
    flags = {name: _in_memory_order(mask) for name, mask in ours.items()}
    guess = _guess(flat, flags, drop / alive)
    if guess is None:
        return None
    places = {
        name: torch.nonzero(torch.le(values, guess).logical_and_(flags[name])).flatten()
        for name, values in flat.items()
    }
    low = {name: flat[name][index] for name, index in places.items()}
    candidates = torch.cat(list(low.values())).numpy()
    if len(candidates) < drop:
        return None
    candidates.partition(drop - 1)
    threshold, mass = float(candidates[drop - 1]), float(candidates[:drop].sum(dtype=np.float64))
    # All below the threshold, and of those equal to it the last ones until there are `drop`.
    ties_to_go = drop - sum(int((values < threshold).count_nonzero()) for values in low.values())
    result = {}
    for name in reversed(low):
        gone = low[name] < threshold
        ties = torch.nonzero(low[name] == threshold).flatten()
        if ties_to_go and len(ties):
            by_index = ties[_index_order(places[name][ties], scores[name])]
            chosen = by_index[max(0, len(by_index) - ties_to_go) :]
            gone[chosen] = True
            ties_to_go -= len(chosen)
        mask = ours[name].clone()
        _in_memory_order(mask)[places[name][gone]] = False
        result[name] = mask
    return {name: result[name] for name in scores}, mass


def _guess(flat: Mapping[str, Tensor], flags: Mapping[str, Tensor], share: float) -> float | None:
    """A score that very likely has this share of the survivors at or below it, and few more."""
    total = sum(values.numel() for values in flat.values())
    stride = max(1, total // _SAMPLE)
    # Coprime to usual sizes, or every place would be the same corner of a kernel.
    while math.gcd(stride, 2 * 3 * 5 * 7 * 11) > 1:
        stride += 1
    sample = torch.cat([v[::stride][flags[name][::stride]] for name, v in flat.items()])
    expected = len(sample) * share
    place = int(expected + 4 * expected**0.5) + 2
    if place >= len(sample):
        return None if stride > 1 or not len(sample) else float(sample.max())
    return float(sample.kthvalue(place).values)


def _is_channels_last(x: Tensor) -> bool:
    """Contiguous in that format only."""
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return last and not x.is_contiguous()


def _in_memory_order(x: Tensor) -> Tensor:
    """A flat view of a contiguous or channels_last tensor; a copy of any other."""
    return x.permute(0, 2, 3, 1).reshape(-1) if _is_channels_last(x) else x.reshape(-1)


def _like(mask: Tensor, score: Tensor) -> Tensor:
    """The mask in the memory format of the score."""
    last = _is_channels_last(score)
    return mask.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _index_order(places: Tensor, score: Tensor) -> Tensor:
    """Sorts places in memory by their index in the tensor."""
    if not _is_channels_last(score):
        return torch.arange(len(places))  # they are found in this order
    out, channels, height, width = score.shape
    shape = (out, height, width, channels)
    n, h, w, c = np.unravel_index(places.numpy(), shape)
    return torch.from_numpy(np.argsort(np.ravel_multi_index((n, c, h, w), score.shape)))
