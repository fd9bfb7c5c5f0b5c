"""What differs from device to device: bfloat16, timing, determinism."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def to_float64(x: Tensor) -> Tensor:
    """In float64, on the CPU where the device (MPS) has none."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def has_bfloat16(device: torch.device, precision: str) -> bool:
    """Whether to compute in bfloat16: asked for, or left open and in the hardware."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


class Clock:
    """Seconds between laps in the device's own time, read after it was waited for anyway."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.marks = [self._mark()]

    def _mark(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's
        event.record()
        return event

    def lap(self) -> None:
        self.marks.append(self._mark())

    def seconds(self) -> list[float]:
        pairs = list(zip(self.marks, self.marks[1:], strict=False))
        if self.cuda:
            return [a.elapsed_time(b) / 1000 for a, b in pairs]
        return [b - a for a, b in pairs]


@contextmanager
def deterministic(exact: bool) -> Iterator[None]:
    """Deterministic algorithms only, inside the block, if ``exact``; else the fastest ones.

    An operation that has none on the device raises torch's own RuntimeError.
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )
    if exact:  # cuBLAS reads this when its first handle is made
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        torch.use_deterministic_algorithms(exact)
        torch.backends.cudnn.deterministic = exact
        torch.backends.cudnn.benchmark = not exact
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before[1:]
