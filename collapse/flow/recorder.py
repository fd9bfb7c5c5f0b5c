"""Catch every operation of a forward pass, in place or not, and those of custom functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from collapse.errors import RequestError
from collapse.flow import unfollowed
from collapse.flow.calls import functional_batch_norm
from collapse.flow.in_place import out_of_place
from collapse.flow.journal import Journal, origin_of
from collapse.models import opened

# Operations that read a tensor's form, or that leave it as it is.
_IGNORED = frozenset({
    *("size", "dim", "numel", "stride", "is_floating_point", "requires_grad_", "item"),
    *("tolist", "is_contiguous", "data_ptr", "element_size", "get_device", "storage_offset"),
    *("__bool__", "__len__", "__repr__", "__format__", "register_hook", "retain_grad", "nelement"),
    *("register_post_accumulate_grad_hook", "is_complex", "ndimension", "is_same_size"),
    *("untyped_storage", "__hash__", "__set__", "is_pinned", "__int__", "__index__"),
})  # fmt: skip

# Python functions that are run in the open, operation by operation.
_COMPOSITE = frozenset({"multi_head_attention_forward"})


class Recorder(TorchFunctionMode):
    """Catches every torch function of a forward and hands it to a journal, out of place.

    Args:
        journal: where operations are written down.
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self.journal = journal

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if self.journal.paused:
            return func(*args, **options)
        held = args[0] if args else None  # what the user still holds, if this overwrites it
        args, options = tree_map(self.journal.memory.read, (args, options))
        name = getattr(func, "__name__", str(func))
        if name in _IGNORED or (name == "view_as" and args[0] is args[1]):
            return func(*args, **options)  # torch makes such a view of what a function hands on
        if name == "__get__" and not isinstance(value := func(*args), Tensor):
            return value  # a shape, a device; x.T is an operation
        if not self.journal.carries_flow((args, options)):
            return self._without_flow(func, name, held, args, options)
        if name in _COMPOSITE:
            with self:
                return opened(func)(*args, **options)
        if func is torch.batch_norm:
            func, args, options = F.batch_norm, functional_batch_norm(*args, **options), {}
        func, name, args, options, changes = out_of_place(func, name, args, options)
        if changes and not torch.is_grad_enabled():
            return self._behind_autograd(func, name, held, args, options)
        result = self.journal.record(func, name, args, options)
        if changes and isinstance(held, Tensor):
            self.journal.memory.write(held, result)
        return result

    def custom_functions(self) -> AbstractContextManager[None]:
        """Inside it, calls of the user's autograd.Functions are heard of."""
        return unfollowed.functions_seen(self._called, self._quiet)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Operations inside it belong to the one that is running."""
        before, self.journal.paused = self.journal.paused, True
        try:
            yield
        finally:
            self.journal.paused = before

    def _called(self, cls: type, node: Any, inputs: tuple[Any, ...]) -> None:
        if self.journal.paused:
            return
        place = self.journal.where()
        what = f"cannot follow {cls.__name__} in '{place or 'the network'}'"
        with torch._C.DisableTorchFunction():
            overwritten = any(self.journal.memory.read(x) is not x for x in inputs)
        if overwritten:
            raise RequestError(f"{what}: its input was overwritten in place before (inplace=False)")
        if getattr(node, "dirty_tensors", None):
            raise RequestError(
                f"{what}: it overwrites its input; expected a function that returns a new tensor"
            )
        self.journal.calls[node] = (cls, place, inputs)

    def _without_flow(
        self,
        func: Callable[..., Any],
        name: str,
        held: Any,
        args: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        """Constants: as they are, also in place, unless they lie in an activation's memory."""
        if isinstance(held, Tensor) and self.journal.memory.holds(held):
            plain = out_of_place(func, name, args, options)
            if plain[-1]:
                return self._behind_autograd(*plain[:2], held, *plain[2:4])
        return func(*args, **options)

    def _behind_autograd(
        self,
        func: Callable[..., Any],
        name: str,
        held: Any,
        args: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        """An in-place change that autograd does not see: new values, the gradient as before."""
        target = args[0]
        if id(target) in self.journal.names:  # of a parameter: its values are others from now on
            with torch.no_grad():
                target.copy_(func(*args, **options))
            return target
        if origin_of(target) is None:
            target = self.journal.memory.attached(target)

        def run(x: Tensor) -> Tensor:
            with torch.no_grad():
                value = func(x.detach(), *args[1:], **options)
            replaced: Tensor = unfollowed.Replaced.apply(x, value)
            return replaced

        with torch.enable_grad():
            result = self.journal.record_function(run, f"{name} without gradient", (target,))
        self.journal.memory.write(held, result)
        return result
