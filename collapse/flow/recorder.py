"""Record a forward pass operation by operation, with taps that note the flow on the way back."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from collapse.errors import RequestError
from collapse.flow import unfollowed
from collapse.flow.calls import (
    added_constants,
    axis_read,
    axis_written,
    layout,
    norm_of,
    relabelled,
)
from collapse.flow.in_place import Memory, out_of_place
from collapse.flow.laws import LINEAR, MOVES, UNITWISE
from collapse.flow.operations import INPUT, Operation, Origin, Use
from collapse.flow.taps import note_of_parameter, note_of_tensor, tap
from collapse.models import all_finite

_ORIGIN = "_flow_origin"

# Operations that read a tensor's form, or that leave it as it is.
_IGNORED = frozenset({
    *("size", "dim", "numel", "stride", "is_floating_point", "requires_grad_", "item"),
    *("tolist", "is_contiguous", "data_ptr", "element_size", "get_device", "storage_offset"),
    *("__bool__", "__len__", "__repr__", "__format__", "register_hook", "retain_grad", "nelement"),
    *("register_post_accumulate_grad_hook", "is_complex", "ndimension", "is_same_size"),
    *("untyped_storage", "__hash__", "__set__", "is_pinned", "__int__", "__index__"),
})  # fmt: skip

# New tensors that take nothing from an activation but its form.
_FORMS = ("new_", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like")

# Python functions that are run in the open, operation by operation.
_COMPOSITE = frozenset({"multi_head_attention_forward"})


def origin_of(x: Any) -> Origin | None:
    """Where a tensor of the recorded pass comes from; None for constants and parameters."""
    return getattr(x, _ORIGIN, None)


class Recorder(TorchFunctionMode):
    """Runs each operation out of place on tapped tensors, and lists it in ``operations``.

    Args:
        parameters: by name; the flow is followed to these.
        where: tells which module is running.
        whole: note each parameter's saliency entry by entry.

    Attributes:
        detached: (place, operation) that took values from an activation without its gradient.
        strangers: tensors of the user's own that gradients may reach, with their gradients.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], where: Callable[[], str], whole: bool = False
    ) -> None:
        super().__init__()
        self.names = {id(tensor): name for name, tensor in parameters.items()}
        self.where, self.whole = where, whole
        self.operations: list[Operation] = []
        self.detached: list[tuple[str, str]] = []
        self.strangers: list[tuple[Tensor, Tensor | None]] = []
        self.memory = Memory(lambda func, name, args: self._record(func, name, args, {}))
        self.paused = False
        self.marks: unfollowed.Marks = {}
        self.calls: dict[Any, tuple[Any, str, tuple[Any, ...]]] = {}  # of functions, by node
        self.adopted: dict[Any, tuple[Operation, unfollowed.Probe]] = {}

    # --- What is caught -----------------------------------------------------------------------

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if self.paused:
            return func(*args, **options)
        held = args[0] if args else None  # what the user still holds, if this overwrites it
        args, options = tree_map(self.memory.read, (args, options))
        name = getattr(func, "__name__", str(func))
        if name in _IGNORED or (name == "view_as" and args[0] is args[1]):
            return func(*args, **options)  # torch makes such a view of what a function hands on
        if name == "__get__" and not isinstance(value := func(*args), Tensor):
            return value  # a shape, a device; x.T is an operation
        if not self._carries_flow((args, options)):
            return self._without_flow(func, name, held, args, options)
        if name in _COMPOSITE:
            with self:
                return _opened(func)(*args, **options)
        func, name, args, options, changes = out_of_place(func, name, args, options)
        if changes and not torch.is_grad_enabled():
            return self._behind_autograd(func, name, held, args, options)
        result = self._record(func, name, args, options)
        if changes and isinstance(held, Tensor):
            self.memory.write(held, result)
        return result

    def custom_functions(self) -> AbstractContextManager[None]:
        """Inside it, calls of the user's autograd.Functions are heard of."""
        return unfollowed.functions_seen(self._called, self._quiet)

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Operations inside it belong to the one that is running."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def _called(self, cls: type, node: Any, inputs: tuple[Any, ...]) -> None:
        if self.paused:
            return
        if any(self.memory.read(x) is not x for x in inputs):
            raise RequestError(
                f"cannot follow {cls.__name__} in '{self.where() or 'the network'}': its input was "
                "overwritten in place before (inplace=False)"
            )
        if getattr(node, "dirty_tensors", None):
            raise RequestError(
                f"cannot follow {cls.__name__} in '{self.where() or 'the network'}': it overwrites "
                "its input; expected a function that returns a new tensor"
            )
        self.calls[node] = (cls, self.where(), inputs)

    def adopt(self, part: Any) -> Any:
        """Find where a tensor comes from that has a gradient but was made by nothing recorded."""
        known = not isinstance(part, Tensor) or origin_of(part) is not None
        if known or id(part) in self.names or not part.requires_grad:
            return part
        node = part.grad_fn
        if node is None:  # a leaf of the user's own
            self.strangers.append((part, part.grad))
            return part
        if (node, part.output_nr) in self.marks:  # a recorded result under another name
            object.__setattr__(part, _ORIGIN, self.marks[node, part.output_nr][0])
            return part
        if node not in self.adopted:
            self.adopted[node] = self._adopted(part, node)
        operation, probe = self.adopted[node]
        origin = Origin(operation.index, part.output_nr, learned=_learned(operation))
        use = Use(origin, None, None, part.output_nr)
        operation.results.append(use)
        note = note_of_tensor(use, None, None, probe.derivative_of(part.output_nr))
        values = part.detach()
        part.register_hook(lambda gradient: note(values, gradient))
        object.__setattr__(part, _ORIGIN, origin)
        self.marks[node, part.output_nr] = (origin, values)
        self.memory.keep(part)
        return part

    def _adopted(self, part: Tensor, node: Any) -> tuple[Operation, unfollowed.Probe]:
        """What made a tensor, with its uses, and its derivative if it is a function's."""
        cls, where, inputs = self.calls.get(node, (None, self.where(), ()))
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        probe = unfollowed.Probe(problem="it bypasses torch's functions")
        if cls is not None:
            for x in tensors:
                self.adopt(x)
            with self._quiet():
                probe = unfollowed.probe(cls.apply, inputs, {}, lambda x: not self._is_constant(x))
        operation = Operation(len(self.operations), unfollowed.name_of(node), where)
        operation.unfollowed = probe.problem
        self.operations.append(operation)
        strangers = unfollowed.walk(part, operation, self.names, self.marks, tensors, probe)
        self.strangers += [(leaf, leaf.grad) for leaf in strangers]
        self._known_as_output(operation)
        return operation, probe

    # --- What is done with it -----------------------------------------------------------------

    def _carries_flow(self, arguments: Any) -> bool:
        leaves = [x for x in tree_leaves(arguments) if isinstance(x, Tensor)]
        for x in leaves:
            self.adopt(x)
        return any(id(x) in self.names or origin_of(x) is not None for x in leaves)

    def _without_flow(
        self,
        func: Callable[..., Any],
        name: str,
        held: Any,
        args: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        """Constants: as they are, also in place, unless they lie in an activation's memory."""
        if isinstance(held, Tensor) and self.memory.holds(held):
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
        if id(target) in self.names:  # of a parameter: its values are others from now on
            with torch.no_grad():
                target.copy_(func(*args, **options))
            return target
        if origin_of(target) is None:
            target = self.memory.attached(target)

        def run(x: Tensor) -> Tensor:
            with torch.no_grad():
                value = func(x.detach(), *args[1:], **options)
            replaced: Tensor = unfollowed.Replaced.apply(x, value)
            return replaced

        with torch.enable_grad():
            result = self._custom(run, f"{name} without gradient", (target,), {})
        self.memory.write(held, result)
        return result

    def _custom(
        self, run: Callable[..., Any], name: str, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """A function with a gradient of its own, whose derivative is measured too."""
        probe = unfollowed.probe(run, args, {}, lambda x: not self._is_constant(x))
        return self._record(run, name, args, {}, probe)

    def _record(
        self,
        func: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        options: dict[str, Any],
        probe: unfollowed.Probe | None = None,
    ) -> Any:
        operation = Operation(len(self.operations), name, self.where())
        tapped, tapped_options = self._tapped(operation, args, options, probe)
        result = func(*tapped, **tapped_options)
        operation.constants = added_constants(name, args, options, self._is_constant)
        if name == "batch_norm":
            operation.norm = norm_of(args, options)
        if probe is not None:
            operation.unfollowed = probe.problem
        noted: list[Tensor] = []
        axis = self._units(operation, func, args, options, result)
        result = tree_map(
            lambda part: self._noted(part, operation, noted, axis, probe, args), result
        )
        if noted:
            self.operations.append(operation)
            self._known_as_output(operation)
        elif _takes_values(name, result):
            self.detached.append((operation.place, name))
        return result

    def _is_constant(self, x: Any) -> bool:
        return id(x) not in self.names and origin_of(x) is None

    def _known_as_output(self, operation: Operation) -> None:
        for use in operation.uses:
            if use.producer is not None and use.producer != INPUT:
                self.operations[use.producer].outputs.append(use)

    def _tapped(
        self,
        operation: Operation,
        args: tuple[Any, ...],
        options: dict[str, Any],
        probe: unfollowed.Probe | None,
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments with a tap on each tensor that carries flow."""
        name = operation.function
        places = LINEAR.get(name)
        weight = None
        if places is not None:
            weight = args[places.weight[0]] if len(args) > places.weight[0] else None
            weight = options.get(places.weight[1]) if weight is None else weight
            if self._is_learned(weight) and weight.ndim >= 2:  # type: ignore[union-attr]
                operation.linear = layout(name, args, options)

        def tapped(argument: Any, slot: int | str) -> Any:
            return tree_map(lambda x: one(x, slot), argument)

        def one(x: Any, slot: int | str) -> Any:
            if not isinstance(x, Tensor):
                return x
            parameter, origin = self.names.get(id(x)), origin_of(x)
            if parameter is None and origin is None:
                return x
            use = Use(None if parameter else origin, operation.index, parameter, slot)
            operation.uses.append(use)
            direction = None if probe is None else probe.direction_of(x)
            of_weight = places is not None and slot in places.weight
            if parameter is not None or (of_weight and operation.linear is not None):
                placed = operation.linear if of_weight else None
                whole = self.whole and parameter is not None
                note = note_of_parameter(use, placed or {}, whole, direction)
                return tap(x, note, leaf=parameter is not None)
            made = None if origin is None else origin.axis
            read = axis_read(name, x, slot)
            use.aligned = made is not None and read in (None, made)
            return tap(x, note_of_tensor(use, made, read, direction))

        return [tapped(a, i) for i, a in enumerate(args)], {
            k: tapped(a, k) for k, a in options.items()
        }

    def _is_learned(self, x: Any) -> bool:
        """Whether a tensor is a parameter, or made of parameters alone."""
        origin = origin_of(x)
        return id(x) in self.names or (origin is not None and origin.learned)

    def _units(
        self,
        operation: Operation,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        options: dict[str, Any],
        result: Any,
    ) -> int | None:
        """The dimension of the result's units, and how they belong to those of the input."""
        name = operation.function
        if not isinstance(result, Tensor):
            return None
        data = [use for use in operation.uses if use.parameter is None]
        if operation.linear is not None or name == "batch_norm":
            return axis_written(name, result)
        if len(data) != 1 or data[0].origin is None or data[0].origin.axis is None:
            return None
        axis = data[0].origin.axis
        if name in UNITWISE:
            operation.follows = data[0].aligned and not operation.constants
            return axis if data[0].aligned else None
        if name not in MOVES or origin_of(args[0]) is None:
            return None
        found = relabelled(lambda labels: func(labels, *args[1:], **options), args[0], axis)
        if found is None:
            return None
        operation.follows = True
        axis, operation.labels = found
        return axis

    def _noted(
        self,
        part: Any,
        operation: Operation,
        noted: list[Tensor],
        axis: int | None,
        probe: unfollowed.Probe | None,
        args: tuple[Any, ...],
    ) -> Any:
        if not (isinstance(part, Tensor) and part.requires_grad and operation.uses):
            return part
        _check_finite(part.detach(), operation, args)
        origin = Origin(operation.index, len(noted), axis, _learned(operation))
        use = Use(origin, None, None, len(noted))
        operation.results.append(use)
        direction = None if probe is None else probe.derivative_of(len(noted))
        read = axis_read(operation.function, part, None) if axis is None else axis
        part = tap(part, note_of_tensor(use, read, None, direction))
        noted.append(part)
        self._originates(part, origin)
        return part

    def _originates(self, part: Tensor, origin: Origin) -> None:
        object.__setattr__(part, _ORIGIN, origin)
        self.marks[part.grad_fn, 0] = (origin, None)
        self.memory.keep(part)

    def begin(self, x: Tensor) -> None:
        """The network's input is a source of flow."""
        object.__setattr__(x, _ORIGIN, Origin(INPUT))
        self.memory.keep(x)


def _learned(operation: Operation) -> bool:
    """Whether the results are made of parameters alone; looking up tokens reads data too."""
    seen = bool(operation.uses) and all(use.learned for use in operation.uses)
    return seen and operation.function != "embedding"


def _takes_values(name: str, result: Any) -> bool:
    floats = any(isinstance(x, Tensor) and x.is_floating_point() for x in tree_leaves(result))
    return (floats or name == "numpy") and not name.startswith(_FORMS)


def _check_finite(values: Tensor, operation: Operation, args: tuple[Any, ...]) -> None:
    if all_finite(values):
        return
    infinite = [-float("inf"), torch.finfo(values.dtype).min]
    masked = any(
        bool((x == -float("inf")).any()) if isinstance(x, Tensor) else x in infinite
        for x in tree_leaves(args)
    )
    if masked and not bool((values.isnan() | (values == float("inf"))).any()):
        return  # scores that a mask has set to -inf, for softmax
    where = operation.place or "the network"
    raise RequestError(
        f"the output of {operation.function} in '{where}' holds NaN or infinite values: "
        "expected finite activations"
    )


def _opened(func: Callable[..., Any]) -> Callable[..., Any]:
    """A function of torch.nn.functional that calls its parts instead of handing itself over."""
    assert isinstance(func, types.FunctionType)
    inside = {**func.__globals__, "has_torch_function": lambda _: False}
    opened = types.FunctionType(func.__code__, inside, func.__name__, func.__defaults__)
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened
