"""Which part of what a forward returns is meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from collapse.errors import RequestError
from collapse.models.batches import mapped, tensors_in

# The key, attribute or index of a part; "all" for the whole; None for the only one.
Selector = str | int | None
ALL = "all"


def select_output(result: Any, output: Selector) -> Any:
    """The tensor that is meant by ``output`` of what a forward returned (see ``call``).

    Without ``output`` it is the only part there is; of a Hugging Face output, its ``logits``.
    """
    if isinstance(result, Tensor):
        return _checked(result)
    parts = _parts(result)
    if output is None:
        output = _obvious(result, parts)
    kind, names = type(result).__name__, ", ".join(parts)
    if not parts:
        raise RequestError(f"expected the model to return a tensor, got {kind}")
    if output is None:
        raise RequestError(
            f"expected the model to return a tensor, got {kind} with parts {names}; "
            "choose one with --output NAME, or all (in Python output=NAME)"
        )
    chosen = parts.get(str(output))
    if chosen is None and isinstance(output, str | int) and str(output).lstrip("-").isdigit():
        values = list(parts.values())
        index = int(output)
        chosen = values[index] if -len(values) <= index < len(values) else None
    if chosen is None and output == ALL:
        chosen = parts if not isinstance(result, Mapping | list | tuple) else result
        if not floats_of(chosen):
            raise RequestError(f"output 'all': expected a floating-point tensor in the {kind}")
        return chosen
    if not isinstance(chosen, Tensor):
        raise RequestError(
            f"output '{output}' of the model is no tensor: expected one of {names} of its {kind}"
        )
    return _checked(chosen)


def _checked(chosen: Tensor) -> Tensor:
    if not chosen.is_floating_point():
        raise RequestError(
            "expected floating-point numbers as the model's output, got "
            f"{str(chosen.dtype).removeprefix('torch.')} {tuple(chosen.shape)}"
        )
    return chosen


def _parts(result: Any) -> dict[str, Any]:
    if isinstance(result, Mapping):
        return {str(key): value for key, value in result.items()}
    if hasattr(result, "_asdict"):
        return dict(result._asdict())
    if isinstance(result, list | tuple):
        return {str(index): value for index, value in enumerate(result)}
    return dict(vars(result)) if hasattr(result, "__dict__") else {}


def _obvious(result: Any, parts: Mapping[str, Any]) -> Selector:
    if len(parts) == 1:
        name, part = next(iter(parts.items()))
        return name if isinstance(part, Tensor) else None
    foreign = any(each.__module__.startswith("transformers.") for each in type(result).__mro__)
    return "logits" if foreign and isinstance(parts.get("logits"), Tensor) else None


def floats_of(outputs: Any) -> list[Tensor]:
    """Every floating-point tensor of a model's outputs, in their order."""
    return [x for x in tensors_in(outputs) if x.is_floating_point()]


def output_sum(outputs: Any) -> Tensor:
    """The sum over every floating-point output: SynFlow's ``R``."""
    if isinstance(outputs, Tensor):
        return outputs.sum()
    return torch.stack([x.sum() for x in floats_of(outputs)]).sum()


def with_floats(outputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The outputs with ``change`` applied to every floating-point tensor."""
    return mapped(lambda x, _: change(x) if x.is_floating_point() else x, outputs)
