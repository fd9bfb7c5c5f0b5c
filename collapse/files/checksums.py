"""Tensors on disk with the checksum of what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from collapse.errors import first_line
from collapse.files.writing import atomic


class CorruptRunError(Exception):
    """A file of the run is not what was written. Never reaches a user: the run is moved aside."""


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU and contiguous, as safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and contents, hexadecimal; of ``plain`` tensors."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def save_checked(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    """Write tensors with their checksum; returns it."""
    ready = plain(tensors)
    checksum = digest(ready)
    metadata = {"collapse": json.dumps({**about, "checksum": checksum})}
    with atomic(path) as temporary:
        temporary.write_bytes(save(ready, metadata))
    return checksum


def load_checked(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and what was said about them.

    Raises:
        CorruptRunError: missing, cut short, or not what was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["collapse"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
        if digest(tensors) != about["checksum"]:
            raise CorruptRunError(f"{path.name} does not have its checksum")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CorruptRunError(f"{path.name}: {first_line(error)}") from error
    return tensors, about


def checksum_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
