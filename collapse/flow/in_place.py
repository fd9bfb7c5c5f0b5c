"""In-place operations, followed without overwriting a tensor whose flow is still wanted.

Each runs out of place. What the user still holds (the tensor, and every view of the same memory)
is looked up on its next use: as the result, as a part of it, or as the old tensor with the result
written into it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from collapse.errors import RequestError

_NOW = "_flow_now"  # what an operation that only changed a tensor's form has made of it

Run = Callable[[Callable[..., Any], str, tuple[Any, ...]], Tensor]


class NotFollowedError(RequestError):
    """An operation that cannot be recorded; where it is, is still to be said.

    Args:
        what: happens there.
        expected: in its place.
    """

    def __init__(self, what: str, expected: str) -> None:
        super().__init__(f"{what}: {expected}")
        self.what, self.expected = what, expected


def storage_of(x: Tensor) -> int:
    """The address of a tensor's memory; 0 where it has none of its own."""
    try:
        return x.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse tensors, and those without data
        return 0


@dataclass
class _Cell:
    """A piece of memory: the tensor that holds what is in it now."""

    now: Tensor


@dataclass
class _Alias:
    """Memory by the address of one of the tensors that have stood for it.

    Attributes:
        origin: a tensor at this address, whose entries are…
        places: …these of the cell's (counted in its logical order); None: all, one by one.
    """

    cell: _Cell
    origin: Tensor
    places: Tensor | None

    def places_of(self, x: Tensor) -> Tensor | None:
        """Which entries of the cell a tensor at this address shows; None: all."""
        origin = self.origin
        if x.dtype != origin.dtype:
            raise NotFollowedError(
                f"an in-place change is seen as {x.dtype} and as {origin.dtype}",
                "expected views of one type, or a clone before the change",
            )
        if _geometry(x) == _geometry(origin):
            return self.places
        numbers = torch.arange(origin.numel(), device=x.device).reshape(origin.shape)
        numbers = numbers if self.places is None else self.places
        size = x.untyped_storage().nbytes() // x.element_size()
        table = torch.full((size,), -1, dtype=torch.long, device=x.device)
        table.as_strided(*_geometry(origin)).copy_(numbers)
        places = table.as_strided(*_geometry(x))
        if bool((places < 0).any()):
            raise NotFollowedError(
                f"an in-place change is seen by a view of shape {tuple(x.shape)} that reaches out "
                "of the tensor it was made from",
                "expected one inside it, or a clone before the change",
            )
        return places


class Memory:
    """What in-place operations have made of the tensors that the user holds."""

    def __init__(self, run: Run) -> None:
        self.run = run  # a recorded operation
        self.aliases: dict[int, _Alias] = {}
        self.whole: dict[int, Tensor] = {}  # by address: the first recorded tensor there

    def keep(self, x: Tensor) -> None:
        """A result has come to be: its memory is known from now on."""
        self.whole.setdefault(storage_of(x), x)

    def holds(self, x: Tensor) -> bool:
        """Whether it lies in the memory of a recorded tensor."""
        address = storage_of(x)
        return address != 0 and (address in self.whole or address in self.aliases)

    def attached(self, x: Tensor) -> Tensor:
        """The recorded tensor in whose memory ``x`` lies, or the part of it that ``x`` shows."""
        address = storage_of(x)
        alias = self.aliases.get(address)
        if alias is None:
            whole = self.whole[address]
            alias = _Alias(_Cell(whole), whole, None)
        return self._part(alias.cell, alias.places_of(x))

    def read(self, x: Any) -> Any:
        """The tensor now of what the user holds; anything else as it is."""
        while isinstance(x, Tensor) and hasattr(x, _NOW):
            x = getattr(x, _NOW)
        if not self.aliases or not isinstance(x, Tensor):
            return x
        alias = self.aliases.get(storage_of(x))
        if alias is None or storage_of(alias.cell.now) == storage_of(x):
            return x
        return self._part(alias.cell, alias.places_of(x))

    def _part(self, cell: _Cell, places: Tensor | None) -> Tensor:
        """What is in a cell now, or in some places of it; it stands for that memory too."""
        if places is None:
            return cell.now
        taken = self.run(_taken, "take", (cell.now, places))
        self.aliases[storage_of(taken)] = _Alias(cell, taken, places)
        return taken

    def write(self, target: Tensor, value: Tensor) -> None:
        """An in-place operation on ``target`` (as the user holds it) has given ``value``."""
        address = storage_of(target)
        if storage_of(value) == address:
            if value is not target:
                object.__setattr__(target, _NOW, value)
            return
        alias = self.aliases.get(address)
        if alias is None:
            base = target if target._base is None else target._base
            origin = self.whole.get(address, base)
            alias = self.aliases[address] = _Alias(_Cell(origin), origin, None)
        places = alias.places_of(target)
        cell = alias.cell
        if places is None:
            cell.now = value
        else:
            cell.now = self.run(_put, "scatter", (cell.now, places, value))
            self.aliases[storage_of(cell.now)] = _Alias(cell, cell.now, None)
        self.aliases[storage_of(value)] = _Alias(cell, value, places)


def _geometry(x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    return tuple(x.shape), x.stride(), int(x.storage_offset())


def _taken(x: Tensor, places: Tensor) -> Tensor:
    return x.reshape(-1)[places.reshape(-1)].reshape(places.shape)


def _put(x: Tensor, places: Tensor, value: Tensor) -> Tensor:
    flat = x.reshape(-1).scatter(0, places.reshape(-1), value.reshape(-1).to(x.dtype))
    return flat.reshape(x.shape)


def is_in_place(name: str) -> bool:
    """Whether a torch function overwrites its first argument, by its name."""
    others = ("__invert__", "__int__", "__index__")
    if name == "__setitem__" or (name.startswith("__i") and name.endswith("__")):
        return name not in others
    return name.endswith("_") and not name.endswith("__")


def out_of_place(
    func: Callable[..., Any], name: str, args: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Callable[..., Any], str, tuple[Any, ...], dict[str, Any], bool]:
    """The same operation without overwriting its input, and whether it would have."""
    if is_in_place(name):
        plain = {"__setitem__": "setitem"}.get(name, f"__{name[3:]}")
        plain = plain if name.startswith("__") else name[:-1]
        twin = getattr(Tensor, plain, None) or getattr(F, plain, None) or _on_a_copy(func)
        return twin, plain, args, options, True
    if "inplace" in options:
        return func, name, args, {**options, "inplace": False}, bool(options["inplace"])
    if inspect.isfunction(func):
        # Its own, not that of what it wraps: a builtin (x ** 2 is pow) has none.
        signature = inspect.signature(func, follow_wrapped=False)
        if "inplace" in signature.parameters:
            bound = signature.bind(*args, **options)
            changes = bool(bound.arguments.get("inplace", False))
            bound.arguments["inplace"] = False
            return func, name, bound.args, bound.kwargs, changes
    return func, name, args, options, False


def _on_a_copy(func: Callable[..., Any]) -> Callable[..., Tensor]:
    def twin(x: Tensor, *args: Any, **options: Any) -> Tensor:
        copy = x.clone()
        func(copy, *args, **options)
        return copy

    return twin
