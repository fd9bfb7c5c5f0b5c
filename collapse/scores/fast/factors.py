"""Scores that are a weight times an outer product, kept as their factors.

Of one sample, a map's score ``θ ⊙ ∂R/∂θ`` is ``θ ⊙ GᵀX``, with the gradients ``G`` of its results
and its inputs ``X`` by position. Selection looks at every score once and keeps a few of them: a
part at a time is made in the cache, looked at, and written over by the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Entries that are made at a time: as many as stay in the cache, with the weights beside them.
_TILE = 1 << 17


@dataclass(frozen=True)
class Factors:
    """``θ ⊙ GᵀX``, in the order of ``θ``.

    Attributes:
        theta: ``[out, in, …]``, contiguous.
        gradient: ``G``, ``[positions, out]``.
        x: ``X``, ``[positions, in ⋅ …]``.
    """

    theta: Tensor
    gradient: Tensor
    x: Tensor

    def finite(self, largest: float) -> bool:
        """Whether every score is known to be, from the largest weight: nothing is computed."""
        bound = self.gradient.abs().amax(1) @ self.x.abs().amax(1)
        return bool(np.isfinite(float(bound) * largest))

    def parts(self) -> Iterator[tuple[int, np.ndarray]]:
        """Flat pieces with the place at which each begins; each is written over by the next."""
        yield from self._parts(None)

    def at(self, places: np.ndarray) -> np.ndarray:
        """The scores at some flat places, but for rounding."""
        rows, columns = np.divmod(places, self.x.shape[1])
        outer = self.gradient.numpy()[:, rows] * self.x.numpy()[:, columns]
        found: np.ndarray = outer.sum(0) * self.theta.view(-1).numpy().take(places)
        return found

    def whole(self) -> Tensor:
        """All scores, as the parts give them."""
        into = torch.empty_like(self.theta)
        for _ in self._parts(into.flatten(1)):
            pass
        return into

    def _parts(self, into: Tensor | None) -> Iterator[tuple[int, np.ndarray]]:
        theta, columns = self.theta.flatten(1), self.x.shape[1]
        step = max(1, _TILE // columns)
        buffer = theta.new_empty(min(step, len(theta)), columns) if into is None else into
        for start in range(0, len(theta), step):
            rows = slice(start, start + step)
            tile = buffer[: len(theta[rows])] if into is None else into[rows]
            torch.mm(self.gradient[:, rows].t(), self.x, out=tile).mul_(theta[rows])
            yield start * columns, tile.view(-1).numpy()
