"""The lowest survivors of a ranking, exactly, at a cost that falls with how many go.

Ranking all survivors to remove a few percent of them is what a hundred iterations spend their time
on. A sample tells roughly where the threshold lies; only what is below that is looked at closely.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

_SAMPLE = 1 << 16  # places that are looked at to guess the threshold
_PART = 1 << 17  # scores that are looked at together, so that they stay in the cache


class InParts(Protocol):
    """Scores of a layer that are nowhere as a whole, in index order."""

    def parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """Flat pieces, and where each begins; one is gone when the next one comes."""

    def at(self, places: np.ndarray) -> np.ndarray:
        """Some of them, but for rounding."""


class _Whole:
    """A tensor's, in the order of memory."""

    def __init__(self, score: Tensor) -> None:
        self.flat = in_memory_order(score).numpy()

    def parts(self) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, len(self.flat), _PART):
            yield start, self.flat[start : start + _PART]

    def at(self, places: np.ndarray) -> np.ndarray:
        return self.flat.take(places)


def drop_lowest(
    scores: Mapping[str, Tensor | InParts], masks: Mapping[str, Tensor], alive: int, drop: int
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
    layers: dict[str, InParts] = {
        name: _Whole(score) if isinstance(score, Tensor) else score
        for name, score in scores.items()
    }
    flags = {name: _in_order_of(scores[name], mask).numpy() for name, mask in masks.items()}
    guess = _guess(layers, flags, drop / alive)
    if guess is None:
        return None
    found = {name: _at_most(layers[name], flags[name], guess) for name in layers}
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
        ties = np.flatnonzero(low[name] == threshold) if ties_to_go else ()
        if len(ties):
            by_index = ties[_index_order(places[name][ties], scores[name])]
            chosen = by_index[max(0, len(by_index) - ties_to_go) :]
            going[chosen] = True
            ties_to_go -= len(chosen)
        gone[name] = torch.from_numpy(places[name][going])
    return {name: gone[name] for name in scores}, mass


def _at_most(scores: InParts, flags: np.ndarray, guess: Any) -> tuple[np.ndarray, np.ndarray]:
    """Places and values of the survivors up to a guess.

    NumPy takes half of torch's time; two threads of it are slower in all but the largest layers.
    """
    places, values = [], []
    for start, part in scores.parts():
        found = np.flatnonzero((part <= guess) & flags[start : start + len(part)])
        values.append(part.take(found))
        places.append(found + start if start else found)
    if len(places) == 1:
        return places[0], values[0]
    return np.concatenate(places), np.concatenate(values)


def _guess(layers: Mapping[str, InParts], flags: Mapping[str, np.ndarray], share: float) -> Any:
    """A score that very likely has this share of the survivors at or below it, and few more."""
    total = sum(map(len, flags.values()))
    stride = max(1, total // _SAMPLE)
    if stride == 1:
        return np.inf
    # Coprime to usual sizes, or every place would be the same corner of a kernel.
    while math.gcd(stride, 2 * 3 * 5 * 7 * 11) > 1:
        stride += 1
    places = {name: np.flatnonzero(flag[::stride]) * stride for name, flag in flags.items()}
    sample = np.concatenate([layers[name].at(where) for name, where in places.items()])
    expected = len(sample) * share
    place = int(expected + 4 * expected**0.5) + 2
    if place >= len(sample):
        return None
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


def _in_order_of(score: Tensor | InParts, mask: Tensor) -> Tensor:
    """A mask in the order in which its scores are told."""
    return in_memory_order(like(mask, score)) if isinstance(score, Tensor) else mask.view(-1)


def _index_order(places: np.ndarray, score: Tensor | InParts) -> np.ndarray:
    """Sorts places in memory by their index in the tensor."""
    if not isinstance(score, Tensor) or not _is_channels_last(score):
        return np.arange(len(places))  # they are found in this order
    out, channels, height, width = score.shape
    n, h, w, c = np.unravel_index(places, (out, height, width, channels))
    return np.argsort(np.ravel_multi_index((n, c, h, w), score.shape))
