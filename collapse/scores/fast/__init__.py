"""Faster ways to the same scores, behind one door and one switch.

``with fast.off():`` computes everything as it is defined; the tests compare the two.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from collapse.scores.fast.double_backward import CheapTwice, unread
from collapse.scores.fast.matmul import InFloat64
from collapse.scores.fast.microbatches import AT_ONCE, microbatches
from collapse.scores.inputs import Batch, ScoreInputs

__all__ = ["AT_ONCE", "in_precision", "is_on", "off", "parts", "twice", "unread"]

_on: ContextVar[bool] = ContextVar("fast", default=True)


@contextlib.contextmanager
def off() -> Iterator[None]:
    """Inside the block nothing takes a faster way."""
    token = _on.set(False)
    try:
        yield
    finally:
        _on.reset(token)


def is_on() -> bool:
    """Whether faster ways may be taken."""
    return _on.get()


@contextlib.contextmanager
def twice(device: torch.device) -> Iterator[None]:
    """A forward in the block can be differentiated twice; on a CPU at little more than once."""
    cheap = CheapTwice() if is_on() and device.type == "cpu" else contextlib.nullcontext()
    with sdpa_kernel(SDPBackend.MATH), cheap:  # fused attention has no second derivative
        yield


def in_precision(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[Any]:
    """A forward in the block is fast in this precision."""
    slow = dtype == torch.float64 and device.type == "cpu"
    return InFloat64() if slow and is_on() else contextlib.nullcontext()


def parts(
    model: nn.Module, inputs: ScoreInputs, dtype: torch.dtype, at_once: int = AT_ONCE
) -> list[Batch]:
    """The batches of ``inputs``, in parts of at most ``at_once`` samples where nothing changes."""
    return microbatches(model, inputs, dtype, at_once) if is_on() else list(inputs.batches)
