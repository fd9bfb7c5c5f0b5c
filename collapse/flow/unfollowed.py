"""What the recorder cannot look into: custom autograd functions, hooks, foreign kernels.

A custom function runs like any operation, and its gradient is tested: along a direction v in its
inputs, ``⟨∂R/∂x, v⟩`` must be what finite differences of its forward give. What reaches an
activation without any call that can be seen is found by walking autograd's graph back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionMeta
from torch.utils._pytree import tree_leaves, tree_map

from collapse.errors import first_line
from collapse.flow.operations import Operation, Origin, Use
from collapse.flow.taps import Tap, note_of_parameter, note_of_tensor

# Relative, in float64: its square and rounding over it are both far below 1e-8.
STEP = 2.0**-20


Called = Callable[[type, Any, tuple[Any, ...]], None]


@contextmanager
def functions_seen(
    called: Called, quiet: Callable[[], AbstractContextManager[None]]
) -> Iterator[None]:
    """Inside it, ``called(cls, node, inputs)`` hears of every call of an autograd.Function.

    torch has no hook for them, and users bind ``apply`` early (``relu = MyReLU.apply``). But it
    looks up ``forward`` and ``setup_context`` on the class at each call, and a property of the
    metaclass comes before them.

    Args:
        quiet: entered while a forward of the user's runs.
    """
    default = _own(torch.autograd.Function, "setup_context")

    def forward(cls: type) -> Any:
        own = _own(cls, "forward")

        def run(*inputs: Any, **options: Any) -> Any:
            with quiet():
                result = own(*inputs, **options)
            if inputs and isinstance(inputs[0], torch.autograd.function.BackwardCFunction):
                called(cls, inputs[0], inputs[1:])
            return result

        return own if issubclass(cls, Tap | Replaced) else run

    def setup_context(cls: type) -> Any:
        own = _own(cls, "setup_context")

        def run(node: Any, inputs: tuple[Any, ...], output: Any) -> Any:
            own(node, inputs, output)
            called(cls, node, inputs)

        return own if own is default else run

    FunctionMeta.forward = property(forward)  # type: ignore[attr-defined]
    FunctionMeta.setup_context = property(setup_context)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del FunctionMeta.forward, FunctionMeta.setup_context  # type: ignore[attr-defined]


def _own(cls: type, name: str) -> Any:
    found = next(base.__dict__[name] for base in cls.__mro__ if name in base.__dict__)
    return found.__get__(None, cls)


class Replaced(torch.autograd.Function):
    """Other values with the gradient of ``x``: an in-place change that autograd does not see."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


@dataclass
class Probe:
    """A direction in the inputs of a function, and the derivative of its results along it.

    Attributes:
        directions: by id of the input.
        derivatives: one a floating-point result.
        problem: why it could not be measured.
    """

    directions: dict[int, Tensor] = field(default_factory=dict)
    derivatives: list[Tensor] = field(default_factory=list)
    problem: str | None = None

    def direction_of(self, x: Tensor) -> Tensor | None:
        return self.directions.get(id(x)) if self.problem is None else None

    def derivative_of(self, result: int) -> Tensor | None:
        known = self.problem is None and result < len(self.derivatives)
        return self.derivatives[result] if known else None


def probe(
    run: Callable[..., Any],
    args: tuple[Any, ...],
    options: dict[str, Any],
    varies: Callable[[Tensor], bool],
) -> Probe:
    """Measure a function's derivative by central differences in float64.

    Each entry is moved by a random share of itself, so that no sign changes and no kink at zero
    (ReLU) is crossed.
    """
    leaves = [x for x in tree_leaves((args, options)) if isinstance(x, Tensor)]
    found = Probe()
    draw = torch.Generator().manual_seed(0)
    for x in leaves:
        if varies(x) and x.is_floating_point():
            share = 2 * torch.rand(x.shape, generator=draw, dtype=torch.float64) - 1
            found.directions[id(x)] = x.detach().double() * share.to(x.device)

    def at(step: float) -> list[Tensor]:
        def moved(x: Any) -> Any:
            if not isinstance(x, Tensor) or not x.is_floating_point():
                return x
            value = x.detach().double()
            direction = found.directions.get(id(x))
            return value.clone() if direction is None else value + step * direction

        with _same_draws(), torch.no_grad():
            result = run(*tree_map(moved, args), **tree_map(moved, options))
        parts = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        return [x.detach().double().clone() for x in parts if x.is_floating_point()]

    try:
        once, again = at(0.0), at(0.0)
        if not all(torch.equal(a, b) for a, b in zip(once, again, strict=True)):
            found.problem = "it gives another result each time"
        pairs = zip(at(STEP), at(-STEP), strict=True)
        found.derivatives = [(up - down) / (2 * STEP) for up, down in pairs]
    except Exception as error:  # a user's function may raise anything, e.g. on float64
        found.problem = f"its derivative could not be measured: {first_line(error)}"
    return found


@contextmanager
def _same_draws() -> Iterator[None]:
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=devices):
        yield


# By node of autograd's graph and number of its result: origin, and values that no tap has.
Marks = dict[tuple[Any, int], tuple[Origin, Tensor | None]]


def walk(
    part: Tensor,
    operation: Operation,
    names: dict[int, str],
    marks: Marks,
    inputs: list[Tensor],
    found: Probe,
) -> list[Tensor]:
    """Fill in the uses of whatever made ``part``, from autograd's graph.

    Each recorded tensor that the graph leads back to is a use; its flow is noted on the edge.

    Args:
        inputs: the tensors that the node of ``part`` was called with, if it is a function's.
        found: its derivative.

    Returns:
        Leaves of the user's own that the graph leads to.
    """
    assert part.grad_fn is not None
    strangers: list[Tensor] = []
    todo, seen = [part.grad_fn], {part.grad_fn}
    while todo:
        node = todo.pop()
        for index, (behind, number) in enumerate(node.next_functions):
            first = node is part.grad_fn and index < len(inputs)
            direction = found.direction_of(inputs[index]) if first else None
            origin, x = marks.get((behind, number), (None, None))
            leaf = getattr(behind, "variable", None)
            name = names.get(id(leaf))
            if leaf is not None:
                origin, x = getattr(leaf, "_flow_origin", None), leaf  # the network's input
            if origin is None and name is None:
                if leaf is not None:
                    strangers.append(leaf)
                elif behind is not None and behind not in seen:
                    seen.add(behind)
                    todo.append(behind)
                continue
            use = Use(None if name else origin, operation.index, name, len(operation.uses))
            operation.uses.append(use)
            if name is not None:
                note = note_of_parameter(use, {}, True, direction)
            else:
                note = note_of_tensor(use, origin.axis if origin else None, None, direction)
            x = behind.saved_tensors[0] if x is None else x  # type: ignore[union-attr]
            node.register_hook(_on_edge(note, x.detach(), index))
    return strangers


def _on_edge(note: Callable[[Tensor, Tensor], None], x: Tensor, index: int) -> Callable[..., None]:
    def hook(into: tuple[Tensor | None, ...], _: Any) -> None:
        gradient = into[index]
        if gradient is not None:
            note(x, gradient)

    return hook


def name_of(node: Any) -> str:
    """What a reader calls the maker of a tensor."""
    text = str(node.name())
    return text.rstrip("0123456789").removesuffix("Backward")
