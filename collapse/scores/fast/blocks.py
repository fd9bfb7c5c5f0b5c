"""Blocks of weights: the output and input channels that still have a survivor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """Some output and input channels of a weight ``[out, in, …]``, in ascending order.

    Ascending, so that the order of two entries, which decides ties, is the same in the block.
    """

    shape: torch.Size
    rows: Tensor
    columns: Tensor

    def gather(self, whole: Tensor) -> Tensor:
        """The block of a tensor."""
        return whole.index_select(0, self.rows).index_select(1, self.columns)

    def scatter(self, part: Tensor) -> Tensor:
        """The tensor that has this block and is zero elsewhere; differentiable."""
        return part.new_zeros(self.shape).index_put((self.rows[:, None], self.columns), part)

    def within(self, rows: Tensor, columns: Tensor) -> Block:
        """A block of this block, by its places here."""
        return Block(self.shape, self.rows[rows], self.columns[columns])

    @classmethod
    def whole(cls, shape: torch.Size) -> Block:
        """All channels."""
        return cls(shape, torch.arange(shape[0]), torch.arange(shape[1]))


def expand(tensors: Mapping[str, Tensor], blocks: Mapping[str, Block]) -> dict[str, Tensor]:
    """Whole tensors from those of which only a block is kept; the others as they are."""
    return {n: blocks[n].scatter(t) if n in blocks else t for n, t in tensors.items()}


def smallest(mask: Tensor, below: float) -> Block | None:
    """The smallest block with all survivors; None unless it is below a share of the whole."""
    flags = mask.flatten(1).numpy()
    found = (
        np.flatnonzero(flags.any(axis=1)),
        np.flatnonzero(flags.any(axis=0).reshape(mask.shape[1], -1).any(axis=1)),
    )
    # A map needs a channel: where none is left, one that is zero stays.
    places = [torch.from_numpy(f if len(f) else np.zeros(1, dtype=f.dtype)) for f in found]
    share = math.prod(len(p) / size for p, size in zip(places, mask.shape, strict=False))
    if share == 1 or share > below:
        return None
    return Block(mask.shape, *places)
