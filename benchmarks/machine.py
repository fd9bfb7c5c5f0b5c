"""What this machine reaches: the limit that a time is held against."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Operations(TorchDispatchMode):
    """Counts what is computed, two a multiply-add.

    torch's ``FlopCounterMode`` follows modules, too, with hooks that keep maps whole.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if (cost := flop_registry.get(func.overloadpacket)) is not None:
            self.count += cost(*args, **(kwargs or {}), out_val=result)
        return result


def medians(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Seconds of each, all taking turns; the first turn does not count."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if turn:
                spent[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in spent.items()}


def limits(dtype: torch.dtype = torch.float32) -> tuple[float, float]:
    """Operations and bytes a second that large matrices and arrays reach here.

    Operations are two a multiply-add, of a product or of a convolution, whichever is faster.
    """
    a, b = torch.rand(2, 2048, 2048, dtype=dtype)
    images, weight = (torch.rand(*shape, dtype=dtype) for shape in (_IMAGES, _KERNELS))
    images, weight = (x.to(memory_format=torch.channels_last) for x in (images, weight))
    array = torch.rand(2**26)
    spent = medians(
        {
            "product": lambda: a @ b,
            "convolution": lambda: F.conv2d(images, weight, padding=1),
            "read": lambda: array.sum(),
        },
        5,
    )
    convolution = 2 * 32 * 16**2 * 256**2 * 9 / spent["convolution"]
    return max(2 * 2048**3 / spent["product"], convolution), 4 * 2**26 / spent["read"]


_IMAGES, _KERNELS = (32, 256, 16, 16), (256, 256, 3, 3)
