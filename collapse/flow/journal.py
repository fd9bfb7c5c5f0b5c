"""Write down operations as they run, with taps that note the flow on the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
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
    weight_in,
)
from collapse.flow.in_place import Memory
from collapse.flow.laws import LINEAR, MOVES, UNITWISE
from collapse.flow.operations import INPUT, Operation, Origin, Use
from collapse.flow.taps import note_of_parameter, note_of_tensor, tap
from collapse.models import all_finite

_ORIGIN = "_flow_origin"

# New tensors that take nothing from an activation but its form.
_FORMS = ("new_", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like")


def origin_of(x: Any) -> Origin | None:
    """Where a tensor of the recorded pass comes from; None for constants and parameters."""
    return getattr(x, _ORIGIN, None)


class Journal:
    """The operations of a pass, each run on tapped tensors.

    Args:
        parameters: by name; the flow is followed to these.
        where: tells which module is running.
        whole: note each parameter's saliency entry by entry.

    Attributes:
        memory: what in-place operations have made of the tensors that the user holds.
        detached: (place, operation) that took values from an activation without its gradient.
        strangers: tensors of the user's own that gradients may reach, with their gradients.
        calls: of autograd functions, by their node: class, place, inputs.
        paused: whether operations belong to one that is running.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], where: Callable[[], str], whole: bool = False
    ) -> None:
        self.names = {id(tensor): name for name, tensor in parameters.items()}
        self.where, self.whole = where, whole
        self.operations: list[Operation] = []
        self.detached: list[tuple[str, str]] = []
        self.strangers: list[tuple[Tensor, Tensor | None]] = []
        self.memory = Memory(lambda func, name, args: self.record(func, name, args, {}))
        self.marks: unfollowed.Marks = {}
        self.calls: dict[Any, tuple[Any, str, tuple[Any, ...]]] = {}
        self.adopted: dict[Any, tuple[Operation, unfollowed.Probe]] = {}
        self.paused = False

    def begin(self, x: Tensor) -> None:
        """The network's input is a source of flow."""
        object.__setattr__(x, _ORIGIN, Origin(INPUT))
        self.memory.keep(x)

    def carries_flow(self, arguments: Any) -> bool:
        leaves = [x for x in tree_leaves(arguments) if isinstance(x, Tensor)]
        for x in leaves:
            self.adopt(x)
        return any(id(x) in self.names or origin_of(x) is not None for x in leaves)

    def record_function(self, run: Callable[..., Any], name: str, args: tuple[Any, ...]) -> Any:
        """A function with a gradient of its own, whose derivative is measured too."""
        probe = unfollowed.probe(run, args, {}, lambda x: not self._is_constant(x))
        return self.record(run, name, args, {}, probe)

    def record(
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
        weight = weight_in(name, args, options)
        if weight is not None and self._is_learned(weight):
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
            self.paused = True
            probe = unfollowed.probe(cls.apply, inputs, {}, lambda x: not self._is_constant(x))
            self.paused = False
        operation = Operation(len(self.operations), unfollowed.name_of(node), where)
        operation.unfollowed = probe.problem
        self.operations.append(operation)
        strangers = unfollowed.walk(part, operation, self.names, self.marks, tensors, probe)
        self.strangers += [(leaf, leaf.grad) for leaf in strangers]
        self._known_as_output(operation)
        return operation, probe


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
