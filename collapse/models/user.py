"""What a user names as ``package.module:name``."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from torch import nn

from collapse.errors import RequestError, first_line, unknown


def import_user(name: str, kind: str) -> Any:
    """What ``package.module:name`` names, with the current folder importable.

    Raises:
        RequestError: the import fails, or the module has no such name (the nearest are given).
    """
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises on import is the user's to see
        raise RequestError(
            f"{kind} '{name}': importing '{module_name}' failed with "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    if not hasattr(module, attribute):
        choices = [key for key, value in vars(module).items() if callable(value)]
        raise unknown(f"{kind} in '{module_name}'", attribute, choices)
    return getattr(module, attribute)


def _from_factory(name: str) -> nn.Module:
    """``package.module:factory``, called without arguments."""
    factory = import_user(name, "model")
    try:
        model = factory()
    except Exception as error:  # likewise
        raise RequestError(
            f"model '{name}': expected a callable that takes no arguments; calling it failed "
            f"with {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise RequestError(
            f"model '{name}': expected a torch.nn.Module, got {type(model).__name__}"
        )
    return model
