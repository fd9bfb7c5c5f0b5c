"""Classes of positions along one axis of a feature map, and rows and columns by them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

# The class of each position along an axis, from 0; OUTSIDE is padding.
Classes = tuple[int, ...]
OUTSIDE = -1


# Arrays are remembered, and not tensors, which belong to the mode that they were made under.


def place_tensor(classes: Classes, device: torch.device) -> Tensor:
    """The classes as a tensor ``[positions]``; not to be written to."""
    return torch.from_numpy(_places(classes)).to(device)


@lru_cache(maxsize=1024)
def _places(classes: Classes) -> np.ndarray:
    return np.array(classes)


@lru_cache(maxsize=4096)
def seen(
    classes: Classes, size: int, kernel: int, stride: int, padding: int, dilation: int
) -> tuple[Classes, Classes]:
    """The classes of a kernel's ``size`` output positions, and the input classes that each sees.

    Returns:
        The class of each output position, and ``kernel`` input classes for each class.
    """
    found: dict[Classes, int] = {}
    out = []
    for position in range(size):
        start = position * stride - padding
        places = range(start, start + kernel * dilation, dilation)
        window = tuple(classes[p] if 0 <= p < len(classes) else OUTSIDE for p in places)
        out.append(found.setdefault(window, len(found)))
    return tuple(out), tuple(place for window in found for place in window)


@lru_cache(maxsize=4096)
def joined(one: Classes, other: Classes) -> tuple[Classes, Classes, Classes]:
    """The classes by which both of two maps are told apart, and each one's own class in them."""
    found: dict[tuple[int, int], int] = {}
    both = tuple(found.setdefault(pair, len(found)) for pair in zip(one, other, strict=True))
    return both, tuple(a for a, _ in found), tuple(b for _, b in found)


def gathered(values: Tensor, rows: Classes, columns: Classes) -> Tensor:
    """Rows and columns of a map, zeros for those outside.

    As products with matrices of zeros and ones, which is exact, and whose derivative is one too.
    """
    if rows != tuple(range(values.shape[2])):
        values = choice(rows, values.shape[2], values) @ values
    if columns != tuple(range(values.shape[3])):
        values = values @ choice(columns, values.shape[3], values).t()
    return values


def choice(classes: Classes, count: int, like: Tensor) -> Tensor:
    """A matrix ``[positions, count]``: one at each position's class; not to be written to."""
    return torch.from_numpy(_choice(classes, count)).to(like)


@lru_cache(maxsize=1024)
def _choice(classes: Classes, count: int) -> np.ndarray:
    return np.equal.outer(classes, range(count)).astype(np.float64)


def repeated(index: Classes, kernel: int) -> Classes:
    """What windows see, with a class from inside each in place of what is outside."""
    windows = (index[start : start + kernel] for start in range(0, len(index), kernel))
    return tuple(max(window) if p == OUTSIDE else p for window in windows for p in window)
