"""What a forward computes from some tensors, written down to be computed again without it.

Where a network is nearly empty, an iteration is calls of modules and modes that catch each other's
calls. A tape holds the operations that are left in the end, with everything that does not depend
on the given tensors as a constant.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from collapse.models import tensors_in

# What tells of a tensor's form, and of no number in it.
_FORMS = frozenset({
    *("size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "__len__"),
    *("is_floating_point", "is_complex", "element_size", "storage_offset", "get_device"),
})  # fmt: skip
# Hooks are set again; a derivative on the way, or a shape that numbers decide, is not followed.
_EFFECTS = frozenset({"register_hook"})
_REFUSED = frozenset({"grad", "backward", "nonzero", "unique", "masked_select", "argwhere"})


@dataclass(frozen=True)
class _Slot:
    """The place of a tensor among those that a tape makes."""

    index: int


@dataclass(frozen=True)
class _Call:
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    reads: frozenset[int]
    writes: tuple[int, ...]
    always: bool  # changes a tensor in place, or sets a hook


class Tape(TorchFunctionMode):
    """Inside it, calls are written down.

    Args:
        given: the tensors whose numbers change from one time to the next.

    Attributes:
        sound: whether everything could be followed: no number was looked at, no random one drawn,
            nothing but what the forward makes was written into.
    """

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()
        self.sound = True
        self._given = list(given)
        self._alive: list[Any] = list(given)  # so that no tensor takes the place of another
        self._slots = {id(x): index for index, x in enumerate(given)}
        self._count = len(given)
        self._calls: list[_Call] = []
        self._result = -1

    def __enter__(self) -> Self:
        self._before = self._state()
        super().__enter__()  # type: ignore[no-untyped-call]  # torch's own
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]  # torch's own
        self.sound &= self._state() == self._before

    def _state(self) -> tuple[Any, ...]:
        """What a forward must leave as it is: the streams of random numbers, the given tensors."""
        numpy_state: Any = np.random.get_state()  # noqa: NPY002
        return (
            torch.default_generator.get_state().numpy().tobytes(),
            random.getstate(),
            (numpy_state[1].tobytes(), *numpy_state[2:]),
            [x._version for x in self._given],
        )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        given = list(tensors_in((args, kwargs)))
        versions = [x._version for x in given]
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if (name == "__get__" or name in _FORMS) and not any(True for _ in tensors_in(result)):
            return result
        changed = [x for x, version in zip(given, versions, strict=True) if x._version != version]
        self.sound &= all(id(x) in self._slots for x in changed)
        self.sound &= not any(x.requires_grad and id(x) not in self._slots for x in given)
        if self.sound and any(id(x) in self._slots for x in given):
            self._write(func, args, kwargs, result, bool(changed), name)
        return result

    def _write(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
        in_place: bool,
        name: str,
    ) -> None:
        several = isinstance(result, tuple | list)
        made = list(result) if several else [result]
        effect = name in _EFFECTS
        if name in _REFUSED or not (effect or all(isinstance(x, Tensor) for x in made)):
            self.sound = False
            return
        reads: set[int] = set()
        call = self._encoded(args, reads), self._encoded(kwargs, reads)
        writes = () if effect else tuple(map(self._slot, made))
        self._calls.append(_Call(func, *call, frozenset(reads), writes, in_place or effect))

    def _slot(self, x: Tensor) -> int:
        if id(x) not in self._slots:
            self._alive.append(x)
            self._slots[id(x)] = self._count
            self._count += 1
        return self._slots[id(x)]

    def _encoded(self, x: Any, reads: set[int]) -> Any:
        if isinstance(x, Tensor):
            if id(x) not in self._slots:
                return x
            reads.add(self._slots[id(x)])
            return _Slot(self._slots[id(x)])
        if isinstance(x, dict):
            return {key: self._encoded(value, reads) for key, value in x.items()}
        if type(x) in (list, tuple):
            return type(x)(self._encoded(part, reads) for part in x)
        self.sound &= not any(id(inner) in self._slots for inner in tensors_in(x))
        return x

    def end(self, result: Tensor) -> None:
        """The forward is over: what it gave, and no more than that, is computed again."""
        self.sound &= id(result) in self._slots
        self._result = self._slots.get(id(result), -1)
        needed, kept = {self._result}, []
        for call in reversed(self._calls):
            if call.always or needed.intersection(call.writes):
                needed |= call.reads
                kept.append(call)
        self._calls = kept[::-1]
        self._alive, self._slots = [], {}

    def again(self) -> Tensor:
        """The result, from what is in the given tensors now."""
        values: list[Any] = [*self._given, *[None] * (self._count - len(self._given))]
        for call in self._calls:
            result = call.func(*_filled(call.args, values), **_filled(call.kwargs, values))
            if len(call.writes) == 1:
                values[call.writes[0]] = result[0] if isinstance(result, tuple | list) else result
            elif call.writes:
                for slot, value in zip(call.writes, result, strict=True):
                    values[slot] = value
        found: Tensor = values[self._result]
        return found


def _filled(x: Any, values: Sequence[Any]) -> Any:
    if type(x) is _Slot:
        return values[x.index]
    if type(x) is tuple or type(x) is list:
        return type(x)([_filled(part, values) for part in x])
    if type(x) is dict:
        return {key: _filled(value, values) for key, value in x.items()} if x else x
    return x
