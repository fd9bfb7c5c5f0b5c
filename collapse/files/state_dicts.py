"""Checkpoints of anybody's: a flat dictionary of tensors, and nothing that can run code."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from collapse.errors import RequestError, first_line

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
# Under which names training scripts keep the network beside the optimiser.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "params")
# What DataParallel and torch.compile put before every name.
_PREFIXES = ("module.", "_orig_mod.")


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without wrappers and their prefixes.

    Args:
        path: safetensors, or what ``torch.save`` wrote, read with ``weights_only=True``.

    Raises:
        RequestError: missing, truncated or foreign file, one that holds more than tensors (the
            safe way is named), or a sparse or quantised tensor.
    """
    if not path.is_file():
        raise RequestError(f"checkpoint '{path}' cannot be read: expected a file, there is none")
    if path.suffix not in SUFFIXES:
        raise RequestError(f"checkpoint '{path}': expected a suffix of {', '.join(SUFFIXES)}")
    try:
        held = load_file(path) if path.suffix == ".safetensors" else _of_torch(path)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        if isinstance(error, RequestError):
            raise
        # torch's words on a file of another kind are '101' or 'EOFError'.
        foreign = path.suffix != ".safetensors" and not zipfile.is_zipfile(path)
        why = "it is no file of torch.save, or cut short" if foreign else first_line(error)
        raise RequestError(f"checkpoint '{path}' cannot be read: {why}") from error
    state = _unwrapped(held)
    if not state:
        kind = f"keys {', '.join(map(str, list(held)[:4]))}" if isinstance(held, Mapping) else ""
        kind = "an empty one" if kind == "keys " else kind
        raise RequestError(
            f"checkpoint '{path}': expected a state dict, tensors by name; got "
            f"{kind or type(held).__name__}"
        )
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            kind = "quantised" if tensor.is_quantized else "sparse"
            raise RequestError(
                f"checkpoint '{path}': '{name}' is a {kind} tensor: expected a dense one with "
                f"zeros; save {'dequantize()' if kind == 'quantised' else 'to_dense()'} of it"
            )
    return state


def _of_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = re.search(r"GLOBAL (\S+)", str(error))
        if what is None and not zipfile.is_zipfile(path):
            raise RequestError(
                f"checkpoint '{path}' cannot be read: it is no file of torch.save"
            ) from error
        raise RequestError(
            f"checkpoint '{path}' holds pickled code ({what[1] if what else 'more than tensors'}), "
            "which is not run: expected tensors by name; where you trust it, load it and save "
            "safetensors.torch.save_file(model.state_dict(), 'FILE.safetensors')"
        ) from error


def _unwrapped(held: Any) -> dict[str, Tensor]:
    """The state dict in what a file holds; empty if there is none."""
    if not isinstance(held, Mapping):
        return {}
    tensors = {str(name): value for name, value in held.items() if isinstance(value, Tensor)}
    inner = next((held[name] for name in _WRAPPERS if isinstance(held.get(name), Mapping)), None)
    if inner is not None and len(tensors) < len(inner):
        return _unwrapped(inner)
    for _ in range(4):  # each wrapper may be in the other
        for prefix in _PREFIXES:
            if tensors and all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors
