"""A batch's inputs in any form: a tensor, a tuple of arguments, or a dict of keywords.

Everything that looks at the samples, shapes or devices of inputs asks here, and so does SynFlow
for its ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from collapse.errors import RequestError

# A tensor; a list or tuple of what the forward takes by position; a dict of what it takes by name.
Inputs = Tensor | Sequence[Any] | Mapping[str, Any]
_ATOMS = {int, float, bool, str, type(None)}  # what most arguments are that are no tensors


def tensors_in(x: Any) -> list[Tensor]:
    """All tensors in nested arguments."""
    found: list[Tensor] = []
    _collect(x, found)
    return found


def _collect(x: Any, found: list[Tensor]) -> None:
    # Asked of every argument of every operation that a score watches: as few checks as will do.
    if isinstance(x, Tensor):
        found.append(x)
    elif isinstance(x, (list, tuple)):
        for part in x:
            _collect(part, found)
    elif type(x) not in _ATOMS and isinstance(x, Mapping):
        for part in x.values():
            _collect(part, found)


def mapped(function: Callable[[Tensor, str], Any], x: Any, name: str = "") -> Any:
    """The same structure with ``function(tensor, name)`` in place of each tensor.

    ``name`` is the key of the innermost dict that holds the tensor, empty where there is none.
    """
    if isinstance(x, Tensor):
        return function(x, name)
    if isinstance(x, Mapping):
        changed = {key: mapped(function, value, str(key)) for key, value in x.items()}
        return _like(x, changed)
    if isinstance(x, list | tuple):
        return _sequence(x, [mapped(function, part, name) for part in x])
    return x


def _sequence(x: list[Any] | tuple[Any, ...], parts: list[Any]) -> Any:
    """A list, tuple or named tuple like ``x``."""
    if isinstance(x, list):
        return parts
    return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)


def _like(x: Mapping[str, Any], changed: dict[str, Any]) -> Mapping[str, Any]:
    """A dict of the same class: Hugging Face's outputs are read by attribute as well."""
    if type(x) is dict or not isinstance(x, MutableMapping):
        return changed
    twin = copy.copy(x)
    for key, value in changed.items():
        twin[key] = value
    return twin


def arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a forward is called with: by position, and by name."""
    if isinstance(inputs, Mapping):
        return (), {str(key): value for key, value in inputs.items()}
    return tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,), {}


def shapes(inputs: Inputs) -> str:
    """For messages: ``shape (8, 3)``, or ``shapes ids (8, 16), mask (8, 16)``."""
    if isinstance(inputs, Tensor):
        return f"shape {tuple(inputs.shape)}"
    if isinstance(inputs, Mapping):
        parts = [(f"{key} ", list(tensors_in(value))) for key, value in inputs.items()]
    else:
        parts = [("", list(tensors_in(part))) for part in inputs]
    found = [f"{key}{tuple(x.shape)}" for key, tensors in parts for x in tensors]
    return f"shapes {', '.join(found) or 'of no tensor'}"


def first_tensor(inputs: Inputs) -> Tensor:
    """The first of the inputs: its device is theirs, and its shape is called the input's.

    Raises:
        RequestError: there is none.
    """
    found = next(iter(tensors_in(inputs)), None)
    if found is None:
        raise RequestError(f"expected inputs with a tensor among them, got {_kind(inputs)}")
    return found


def is_graph(inputs: Any) -> bool:
    """Whether the samples are nodes of a graph, because a tensor lists edges between them.

    Edges are integers ``[2, edges]`` that count the rows of the first tensor, as in PyTorch
    Geometric. No node can be taken out alone, so all of them are one sample.
    """
    first, *others = [*tensors_in(inputs)] or [torch.empty(0)]
    nodes = len(first) if first.ndim else 0
    return nodes != 2 and any(
        is_integer(x) and x.ndim == 2 and len(x) == 2 and (not x.numel() or int(x.max()) < nodes)
        for x in others
    )


def samples(inputs: Inputs) -> int:
    """How many samples there are: the length of the first tensor, or of a list of samples."""
    for part in (inputs,) if isinstance(inputs, Tensor) else _parts(inputs):
        if isinstance(part, list) or (isinstance(part, Tensor) and part.ndim):
            return len(part)
    return len(first_tensor(inputs)) if first_tensor(inputs).ndim else 1


def _parts(inputs: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
    return list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)


def taken(inputs: Any, index: slice | list[int]) -> Any:
    """These samples of inputs or targets; what is not one a sample stays, and a graph does."""
    if is_graph(inputs):
        return inputs
    count = samples(inputs) if any(True for _ in tensors_in(inputs)) else 0

    def part(x: Any, outermost: bool) -> Any:
        if isinstance(x, Tensor):
            return x[index] if x.ndim and len(x) == count else x
        if isinstance(x, Mapping):
            return {key: part(value, False) for key, value in x.items()}
        if isinstance(x, list) and not outermost and len(x) == count:
            return x[index] if isinstance(index, slice) else [x[i] for i in index]
        if isinstance(x, list | tuple):
            return _sequence(x, [part(each, False) for each in x])
        return x

    return part(inputs, True)


def cast(inputs: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors in ``dtype``; others stay."""
    return mapped(lambda x, _: x.to(dtype) if x.is_floating_point() else x, inputs)


def moved(batch: Any, device: torch.device) -> Any:
    """Everything on a device."""
    return mapped(lambda x, _: x.to(device), batch)


def entering(inputs: Any, enter: Callable[[Tensor], Tensor]) -> Any:
    """The inputs with ``enter`` applied to the activations among them: floats, but for masks and
    what the forward computes a loss from.

    The ids of tokens enter where they are looked up (``lookups``).
    """
    if isinstance(inputs, Ones):
        return inputs.entering(enter)
    return mapped(lambda x, name: enter(x) if _is_number(x, name) else x, inputs)


def _is_number(x: Tensor, name: str) -> bool:
    return x.is_floating_point() and not any(word in name for word in _STAY)


# Words in the names of what a forward takes and is no activation: masks, and what it computes a
# loss of its own from.
_STAY = ("mask", "label", "target", "boxes")


def is_integer(x: Tensor) -> bool:
    """Whether a tensor holds numbers that may be looked up in a table."""
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)


@dataclass(frozen=True)
class Ones:
    """SynFlow's input: one sample in which every number is one.

    Floating-point tensors are ones. Integers, booleans, masks and labels (by the keys of a dict)
    are the first sample's; where the ids of tokens are looked up in a table, ones come out
    (``lookups``).

    Attributes:
        inputs: one sample.
        value: in place of one.
        scored: parameters that are scored: a table that only looks up and is among them gives its
            rows.
        enter: is handed every tensor of ones that a table gives, or the rows; returns what the
            network goes on with.
    """

    inputs: Inputs
    value: float = 1.0
    scored: Collection[str] = ()
    enter: Callable[[Tensor], Tensor] = lambda x: x

    @classmethod
    def like(
        cls,
        inputs: Inputs,
        dtype: torch.dtype | None = None,
        *,
        value: float = 1.0,
        scored: Collection[str] = (),
    ) -> Ones:
        """In the shape of these inputs; floats in ``dtype``, or in float32."""

        def one(x: Tensor, name: str) -> Tensor:
            if _is_number(x, name):
                return torch.full(x.shape, value, dtype=dtype, device=x.device)
            return x

        return cls(mapped(one, taken(inputs, slice(0, 1))), value, scored)

    @property
    def device(self) -> torch.device:
        return first_tensor(self.inputs).device

    def entering(self, enter: Callable[[Tensor], Tensor]) -> Ones:
        """The same with ``enter`` applied to every tensor of ones."""
        return Ones(entering(self.inputs, enter), self.value, self.scored, enter)

    def ids(self) -> list[Tensor]:
        """What may be looked up in a table."""
        return [x for x, name in _named(self.inputs) if is_integer(x) and "mask" not in name]

    def has_numbers(self) -> bool:
        """Whether there is a floating-point input, so that not all enters by tables."""
        return any(_is_number(x, name) for x, name in _named(self.inputs))


def _named(inputs: Any) -> list[tuple[Tensor, str]]:
    found: list[tuple[Tensor, str]] = []
    mapped(lambda x, name: found.append((x, name)), inputs)
    return found


def check_batches(batches: Sequence[Any]) -> None:
    """Raise RequestError for anything but pairs of inputs and targets."""
    for number, batch in enumerate(batches, 1):
        wanted = f"batch {number}: expected a pair (inputs, targets)"
        if not isinstance(batch, list | tuple):
            hint = ""
            if isinstance(batch, Mapping):
                hint = "; write (batch, targets), with the dict as inputs"
            elif isinstance(batch, Tensor):
                hint = "; write batches=[(inputs, targets)]"
            raise RequestError(f"{wanted}, got {_kind(batch)}{hint}")
        if len(batch) != 2:
            raise RequestError(
                f"{wanted}, got {len(batch)} parts; several inputs are one tuple or dict: "
                "((a, b), targets)"
            )
        if not isinstance(batch[0], Tensor | list | tuple | Mapping):
            raise RequestError(
                f"batch {number}: expected inputs that are a tensor, a tuple or a dict, got "
                f"{_kind(batch[0])}"
            )
        first_tensor(batch[0])


def _kind(x: Any) -> str:
    if isinstance(x, Tensor):
        return f"a tensor of shape {tuple(x.shape)}"
    if isinstance(x, Mapping):
        return f"a dict of {', '.join(map(str, x)) or 'nothing'}"
    empty = isinstance(x, list | tuple) and not x
    return f"an empty {type(x).__name__}" if empty else type(x).__name__
