"""The lowest survivors of a ranking, exactly, at a cost that falls with how many go.

Ranking all survivors to remove a few percent of them is what a hundred iterations spend their time
on. A sample tells roughly where the threshold lies; only what is below that is looked at closely.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

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
        The places of those that go, by layer, and the sum of their scores (float64). Places are
        counted in the order of memory (``in_memory_order``). None where the sample guessed the
        threshold too low.
    """
    flat = {name: in_memory_order(score).numpy() for name, score in scores.items()}
    flags = {
        name: in_memory_order(like(masks[name], score)).numpy() for name, score in scores.items()
    }
    guess = _guess(flat, flags, drop / alive)
    if guess is None:
        return None
    found = {name: _at_most(flat[name], flags[name], guess) for name in flat}
    places = {name: where for name, (where, _) in found.items()}
    low = {name: values for name, (_, values) in found.items()}
    candidates = np.concatenate(list(low.values()))
    if len(candidates) < drop:
        return None
    candidates.partition(drop - 1)
    threshold, mass = candidates[drop - 1], float(candidates[:drop].sum(dtype=np.float64))
    # All below the threshold, and of those equal to it the last ones until there are `drop`.
    ties_to_go = drop - sum(np.count_nonzero(values < threshold) for values in low.values())
    gone = {}
    for name in reversed(low):
        going = low[name] < threshold
        ties = np.flatnonzero(low[name] == threshold)
        if ties_to_go and len(ties):
            by_index = ties[_index_order(places[name][ties], scores[name])]
            chosen = by_index[max(0, len(by_index) - ties_to_go) :]
            going[chosen] = True
            ties_to_go -= len(chosen)
        gone[name] = torch.from_numpy(places[name][going])
    return {name: gone[name] for name in scores}, mass


def _at_most(values: np.ndarray, flags: np.ndarray, guess: Any) -> tuple[np.ndarray, np.ndarray]:
    """Places and values of the survivors up to a guess.

    NumPy takes half of torch's time; two threads of it are slower in all but the largest layers.
    """
    places = np.flatnonzero(np.logical_and(values <= guess, flags))
    return places, values.take(places)


def _guess(flat: Mapping[str, np.ndarray], flags: Mapping[str, np.ndarray], share: float) -> Any:
    """A score that very likely has this share of the survivors at or below it, and few more."""
    total = sum(len(values) for values in flat.values())
    stride = max(1, total // _SAMPLE)
    # Coprime to usual sizes, or every place would be the same corner of a kernel.
    while math.gcd(stride, 2 * 3 * 5 * 7 * 11) > 1:
        stride += 1
    sample = np.concatenate([v[::stride][flags[name][::stride]] for name, v in flat.items()])
    expected = len(sample) * share
    place = int(expected + 4 * expected**0.5) + 2
    if place >= len(sample):
        return None if stride > 1 or not len(sample) else sample.max()
    sample.partition(place - 1)
    return sample[place - 1]


def _is_channels_last(x: Tensor) -> bool:
    """Contiguous in that format only."""
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return last and not x.is_contiguous()


def in_memory_order(x: Tensor) -> Tensor:
    """A flat view of a contiguous or channels_last tensor; a copy of any other."""
    return x.permute(0, 2, 3, 1).reshape(-1) if _is_channels_last(x) else x.reshape(-1)


def like(mask: Tensor, score: Tensor) -> Tensor:
    """The mask in the memory format of the score."""
    last = _is_channels_last(score)
    return mask.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def _index_order(places: np.ndarray, score: Tensor) -> np.ndarray:
    """Sorts places in memory by their index in the tensor."""
    if not _is_channels_last(score):
        return np.arange(len(places))  # they are found in this order
    out, channels, height, width = score.shape
    n, h, w, c = np.unravel_index(places, (out, height, width, channels))
    return np.argsort(np.ravel_multi_index((n, c, h, w), score.shape))
