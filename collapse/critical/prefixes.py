"""The masks that one ranking of all weights gives, and the fewest weights of it that are enough.

Such masks are prefixes of one order, so that whatever is connected stays connected as more is
kept. The weight that makes the difference lies itself on a path: of all numbers to keep, only the
ranks of living weights have to be tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from collapse import masks as masking
from collapse.models import Masks

# Whether a number to keep is enough, and which of the kept weights live.
Look = Callable[[int], tuple[bool, Masks]]
# Below this ratio of a number that is enough to one that is not, ranks are looked at one by one.
_NEAR = 2


class Prefixes:
    """The highest scores of a network's survivors, for any number to keep.

    Args:
        scores: one tensor a layer, in parameter order.
        start: the survivors that are ranked, all together.
    """

    def __init__(self, scores: Mapping[str, Tensor], start: Masks) -> None:
        self.total = masking.kept(start)
        self._scores, self._start = scores, start
        self._order = np.empty(0, dtype=np.int64)  # places in one row of all layers, highest first

    def masks(self, keep: int) -> Masks:
        """As ``masks.select`` gives them."""
        if keep >= self.total:
            return self._start
        if keep > len(self._order):
            return masking.select(self._scores, keep, masks=self._start)
        flat = torch.zeros(sum(m.numel() for m in self._start.values()), dtype=torch.bool)
        flat.numpy()[self._order[:keep]] = True
        parts = torch.split_with_sizes(flat, [mask.numel() for mask in self._start.values()])
        pairs = zip(self._start.items(), parts, strict=True)
        return {name: part.view(mask.shape).to(mask.device) for (name, mask), part in pairs}

    def sort(self, keep: int) -> None:
        """Bring the highest scores into order, so that fewer of them are cheap to tell."""
        if keep > len(self._order):
            masks = self.masks(keep)
            values = masking.gather(self._scores, masks).cpu().numpy()
            # Stable: of equal scores the first one is kept.
            self._order = np.flatnonzero(_flat(masks))[np.argsort(-values, kind="stable")]

    def ranks(self, masks: Masks) -> np.ndarray:
        """The ranks of weights among those that are in order, ascending; 1 is the highest."""
        return np.flatnonzero(_flat(masks)[self._order]) + 1


def _flat(masks: Masks) -> np.ndarray:
    """One row of all layers."""
    row: np.ndarray = torch.cat([mask.flatten() for mask in masks.values()]).cpu().numpy()
    return row


def fewest(look: Look, prefixes: Prefixes, low: int, high: int) -> int:
    """The smallest number to keep in ``[low, high]`` that is enough.

    It must be enough at ``high``, and from the smallest one on.

    Args:
        look: at ``prefixes.masks`` of a number to keep.
    """
    if look(low)[0]:
        return low
    failed, factor = low, 2
    keep = min(failed * factor, high)
    while not (found := look(keep))[0] and keep < high:
        failed, factor = keep, factor**2
        keep = min(failed * factor, high)
    while keep > _NEAR * failed:
        middle = min(max(round((failed * keep) ** 0.5), failed + 1), keep - 1)
        if (closer := look(middle))[0]:
            keep, found = middle, closer
        else:
            failed = middle
    prefixes.sort(keep)
    candidates = prefixes.ranks(found[1])
    while True:
        candidates = candidates[(candidates > failed) & (candidates <= keep)]
        if len(candidates) < 2:
            return int(candidates[0]) if len(candidates) else keep
        middle = int(candidates[(len(candidates) - 1) // 2])
        enough, alive = look(middle)
        if enough:
            keep, candidates = middle, prefixes.ranks(alive)
        else:
            failed = middle
