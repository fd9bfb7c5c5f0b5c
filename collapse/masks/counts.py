"""How many parameters there are, how many are kept, and how many a compression keeps."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from collapse.errors import RequestError
from collapse.models import Masks, prunable


def dense(
    model: nn.Module,
    *,
    biases: bool = False,
    batchnorm: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Masks:
    """Masks that keep everything prunable (see ``models.prunable``)."""
    tensors = prunable(model, biases=biases, batchnorm=batchnorm, include=include, exclude=exclude)
    return {name: full(p) for name, p in tensors.items()}


def full(like: Tensor) -> Tensor:
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
    return {name: count(mask) for name, mask in masks.items()}


def count(mask: Tensor) -> int:
    """The number of True entries."""
    on_cpu = mask.device.type == "cpu"
    return int(np.count_nonzero(mask.numpy()) if on_cpu else mask.count_nonzero())


def sizes(masks: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of parameters, layer by layer."""
    return {name: mask.numel() for name, mask in masks.items()}


def sums(scores: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Sum, and sum of absolute values, of each layer's scores, accumulated in float64."""
    return {name: (sum64(s), sum64(s.abs())) for name, s in scores.items()}


def density(masks: Mapping[str, Tensor]) -> float:
    """kept / total, between 0 and 1.

    Raises:
        RequestError: there are no masks, or none has an entry.

    Example:
        >>> density({"weight": torch.tensor([[True, False, False, False]])})
        0.25
    """
    if not isinstance(masks, Mapping):
        raise RequestError(f"expected masks by name of layer, got {type(masks).__name__}")
    if not total(masks):
        raise RequestError("masks are empty: expected one mask a layer")
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

    Example:
        >>> keep_count(1000, 3), keep_count(1000, 1000)
        (334, 1)
    """
    number = isinstance(compression, numbers.Real)
    if not (number and math.isfinite(compression) and compression >= 1):
        raise RequestError(
            f"compression is total / kept: expected a finite number from 1 up, got {compression!r}"
        )
    quotient = parameters / compression
    nearest = round(quotient)
    slack = 4 * sys.float_info.epsilon * quotient
    return nearest if abs(quotient - nearest) <= slack else math.ceil(quotient)


def sum64(values: Tensor) -> float:
    if values.device.type == "cpu":
        return float(values.numpy().sum(dtype=np.float64))
    if values.device.type == "mps":  # which has no float64
        return sum64(values.cpu())
    return float(values.sum(dtype=torch.float64))
