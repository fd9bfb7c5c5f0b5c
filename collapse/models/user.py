"""What a user names as ``package.module:name``."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from collapse.errors import RequestError, first_line, unknown


def import_user(name: str, kind: str) -> Any:
    """What ``package.module:name`` names, with the current folder importable.

    Raises:
        RequestError: the import fails, or the module has no such name (the nearest are given).
    """
    module_name, _, attribute = name.partition(":")
    if module_name.endswith(".py") or os.sep in module_name:
        path = os.path.relpath(module_name).removesuffix(".py")
        dotted = path.replace(os.sep, ".").strip(".") or "module"
        raise RequestError(
            f"{kind} '{name}': expected package.module:name, as seen from the current folder, got "
            f"the path of a file; nearest: {dotted}:{attribute or 'name'}"
        )
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
        # Not what it imports from elsewhere; a package offers what its own modules define.
        choices = [
            key
            for key, value in vars(module).items()
            if callable(value) and f"{value.__module__}.".startswith(f"{module_name}.")
        ]
        raise unknown(f"{kind} in '{module_name}'", attribute, choices)
    return getattr(module, attribute)


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function or class, by name."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # some that are written in C do not say
        return {}


def call_user(function: Callable[..., Any], what: str, **offered: Any) -> Any:
    """Call a user's function with those of the offered arguments that its signature takes.

    Args:
        what: for the message, e.g. ``"model 'net:Net'"``.

    Raises:
        RequestError: it is not callable, or whatever it raises.
    """
    if not callable(function):
        raise RequestError(f"{what}: expected a callable, got {type(function).__name__}")
    parameters = parameters_of(function)
    named = {name: value for name, value in offered.items() if name in parameters}
    any_name = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    try:
        try:
            return function(**(offered if any_name else named))
        except TypeError as error:
            # ``**kwargs`` are often handed on to a function that knows no such argument.
            if not any_name or "unexpected keyword argument" not in str(error):
                raise
            return function(**named)
    except Exception as error:  # whatever a user's function raises is the user's to see
        raise RequestError(
            f"{what}: expected a callable that needs no arguments but {', '.join(offered)}; "
            f"calling it failed with {type(error).__name__}: {first_line(error)}"
        ) from error


def from_factory(name: str, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """The network that ``package.module:factory`` makes.

    Raises:
        RequestError: it cannot be imported or called, or returns something else.
    """
    factory = import_user(name, "model")
    model = call_user(factory, f"model '{name}'", classes=classes, input_shape=input_shape)
    if not isinstance(model, nn.Module):
        raise RequestError(
            f"model '{name}': expected a torch.nn.Module, got {type(model).__name__}"
        )
    return model
