"""A generator of its own for every random choice.

Streams are derived from (seed, purpose), so that adding a pruner or an epoch of logging changes
no other number.
"""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. ``derive(0, "samples")``; the same on every platform."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose. CPU, so that a GPU run draws the same numbers."""
    return torch.Generator().manual_seed(derive(seed, *purpose))
