"""The flow through every tensor of a network, on every use.

The flow of a tensor ``t`` along one use is ``t ⊙ ∂R/∂t`` with the gradient that comes back from
that use, summed over batch and positions: one number a channel. One forward and one backward give
all of it. The forward is recorded operation by operation while it runs (a ``TorchFunctionMode``),
which covers models that torch.fx cannot trace too: what a user's Python does between operations
does not matter.

Nothing of the user's is changed: the model runs on stand-ins, and in-place operations run out of
place, because they would overwrite a tensor whose flow is still wanted. That the recorded network
is the user's is checked each time: its output must be that of a plain forward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.utils._pytree import tree_leaves

from collapse.errors import RequestError
from collapse.flow.in_place import NotFollowedError
from collapse.flow.journal import Journal, origin_of
from collapse.flow.operations import INPUT, Operation, Use
from collapse.flow.recorder import Recorder
from collapse.flow.taps import note_of_tensor, tap
from collapse.models import (
    Inputs,
    Ones,
    Selector,
    backward_errors,
    call,
    entering,
    floats_of,
    mapped,
    place_of,
    running,
    streams_at,
    with_floats,
)

# Largest difference of two runs of one forward, relative to the largest output.
_SAME = {torch.float64: 1e-9, torch.float32: 1e-3}


@dataclass
class Trace:
    """A forward and a backward, recorded.

    Attributes:
        operations: in order of execution.
        output: the use of the network's output by ``R``: its flow is ``⟨∂R/∂y, y⟩``.
        R: the scalar.
        unit: what flows are given in multiples of.
        detached: (place, operation) of values taken from an activation without their gradient.
    """

    operations: list[Operation]
    output: Use
    R: float
    unit: float = 1.0
    detached: list[tuple[str, str]] = field(default_factory=list)

    def in_units_of_its_output(self) -> Trace:
        """The same with all flows divided by the absolute flow at the output, if that is below 1.

        Flows are linear in ``R``. A residual divides by ``max(1, absolute flow)``, so the flow of
        a small ``R`` has to be brought up to 1 first: nothing could fail otherwise. Changes the
        notes in place.
        """
        if not 0 < self.output.scale < 1:
            return self
        unit = self.output.scale
        uses = [use for op in self.operations for use in (*op.uses, *op.results)]
        for use in (*uses, self.output):
            use.divide(unit)
        return Trace(self.operations, self.output, self.R, unit, self.detached)


def record(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    inputs: Inputs | Ones,
    scalar: Callable[[Any], Tensor],
    output: Selector = None,
    *,
    seed: int = 0,
    whole: bool = False,
) -> Trace:
    """Run a model once forward and once backward, and note the flow of every tensor.

    Args:
        tensors: the model's state, as from ``stand_ins``; parameters among them are those that
            the flow is followed to.
        inputs: as ``models.call`` takes them; floating-point inputs are a source of flow too, and
            so are the ones that ids of tokens give.
        scalar: gives ``R`` from what ``output`` selects.
        output: selects a tensor from a forward that returns several, or all of them.
        seed: of what the forward draws.
        whole: note the saliency of parameters entry by entry.

    Raises:
        RequestError: ``R`` is no scalar or does not depend on the parameters, an activation is not
            finite (the first is named), the forward or the backward fails, or the recorded
            forward is not the plain one.
    """
    names = {name for name, p in model.named_parameters() if p.is_floating_point()}
    with streams_at(model, seed):
        expected = _plain(model, tensors, inputs, output)
    state = {
        name: tensor.detach().requires_grad_() if name in names else tensor
        for name, tensor in tensors.items()
    }
    journals: list[Journal] = []

    def leaving(result: Any) -> None:
        with torch._C.DisableTorchFunction():
            for part in tree_leaves(result):
                journals[0].adopt(part)

    with torch.enable_grad(), running(model, leaving) as where:
        journal = Journal({name: state[name] for name in names}, where, whole)
        journals.append(journal)
        recorder = Recorder(journal)

        def enter(x: Tensor) -> Tensor:
            if not x.requires_grad:  # or the rows of a table, which come from a parameter
                x = x.detach().requires_grad_()
                journal.begin(x)
            return x

        with streams_at(model, seed), recorder.custom_functions(), recorder:
            try:
                outputs = call(model, state, entering(_detached(inputs), enter), output)
            except NotFollowedError as error:
                words = f"{error.what}{place_of(model, error)}: {error.expected}"
                raise RequestError(words) from error
        outputs = with_floats(outputs, lambda y: journal.adopt(journal.memory.read(y)))
        if not _same_outputs(floats_of(outputs), expected):
            again = [_by_module(model, tensors, inputs, output, seed) for _ in range(2)]
            raise RequestError(_why_another(*again))
        with recorder:
            y = _joined(outputs)
        origin = origin_of(y)
        if origin is None or origin.operation == INPUT:
            raise RequestError(
                "R does not depend on the parameters: the model's output was computed without them "
                "(detached? another part of it: --output)"
            )
        end = Use(origin, None, None, "output", aligned=True)
        journal.operations[origin.operation].outputs.append(end)
        R = scalar(_parted(tap(y, note_of_tensor(end, origin.axis, None)), outputs))
        if not isinstance(R, Tensor) or R.numel() != 1:
            got = tuple(R.shape) if isinstance(R, Tensor) else type(R).__name__
            raise RequestError(f"R must be a scalar tensor: expected shape (), got {got}")
        if not R.requires_grad:
            raise RequestError("R does not depend on the parameters: it has no gradient")
        _backward(R, journal)
    return Trace(journal.operations, end, float(R.detach()), detached=journal.detached)


def _plain(
    model: nn.Module, tensors: Mapping[str, Tensor], inputs: Inputs | Ones, output: Selector
) -> list[Tensor]:
    """The model's outputs without a recorder, on copies: a forward may write into its state."""
    names = {name for name, p in model.named_parameters() if p.is_floating_point()}
    state = {
        name: tensor.detach().clone().requires_grad_(name in names)
        for name, tensor in tensors.items()
    }

    def enter(x: Tensor) -> Tensor:
        return x if x.requires_grad else x.detach().clone().requires_grad_()

    with torch.enable_grad():  # and with gradients: a forward may put hooks on its tensors
        outputs = call(model, state, entering(inputs, enter), output)
    return [y.detach() for y in floats_of(outputs)]


def _detached(inputs: Inputs | Ones) -> Inputs | Ones:
    """Inputs of their own, for what a user's tensor may carry along."""
    return inputs if isinstance(inputs, Ones) else mapped(lambda x, _: x.detach(), inputs)


def _joined(outputs: Any) -> Tensor:
    """One tensor: the output, or all floating-point ones in a row."""
    if isinstance(outputs, Tensor):
        return outputs
    return torch.cat([y.reshape(-1) for y in floats_of(outputs)])


def _parted(joined: Tensor, outputs: Any) -> Any:
    """The outputs again, with their floating-point tensors taken from the row."""
    if isinstance(outputs, Tensor):
        return joined
    parts = iter(torch.split(joined, [y.numel() for y in floats_of(outputs)]))
    return with_floats(outputs, lambda y: next(parts).view(y.shape))


def _same_outputs(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether the recorded network is the user's: else nothing is said of it."""
    return len(found) == len(expected) and all(map(_same, found, expected))


Outputs = list[tuple[str, list[Tensor]]]


def _by_module(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    inputs: Inputs | Ones,
    output: Selector,
    seed: int,
) -> Outputs:
    """What each module returns in a plain forward, by its path, in order."""
    found: Outputs = []

    def leaving(result: Any) -> None:
        parts = [part for part in tree_leaves(result) if isinstance(part, Tensor)]
        floats = [part.detach().clone() for part in parts if part.is_floating_point()]
        found.append((where(), floats))

    with running(model, leaving) as where, streams_at(model, seed):
        _plain(model, tensors, inputs, output)
    return found


def _why_another(first: Outputs, second: Outputs) -> str:
    pairs = zip(first, second, strict=False)
    path = next((a[0] for a, b in pairs if not _same_outputs(a[1], b[1])), None)
    if path is None and len(first) == len(second):
        return (
            "the recorded forward gives another output than the plain one: expected no write past "
            "torch's functions (NumPy, a kernel of one's own) into a tensor of the network"
        )
    return (
        f"the forward gives another output each time it runs, first in '{path or 'the network'}': "
        "expected one that depends on its input, its parameters and the seeded random streams only"
    )


def _same(y: Tensor, expected: Tensor) -> bool:
    if y.shape != expected.shape:
        return False
    a, b = y.detach(), expected
    limit = _SAME.get(a.dtype, 1e-2) * max(1e-30, float(b.abs().max())) if b.numel() else 0
    return bool(((a - b).abs() <= limit).all())


def _backward(R: Tensor, journal: Journal) -> None:
    def refuse(module: nn.Module, _: object) -> None:
        raise RequestError(
            f"a {type(module).__name__} runs again in the backward pass: expected a model without "
            "gradient checkpointing (switch it off for scoring)"
        )

    for tensor, _ in journal.strangers:  # of the user's own: they get their gradients back
        tensor.grad = None
    guard = module_hooks.register_module_forward_pre_hook(refuse)

    def near() -> str:
        last = _reached_last(journal)
        return "" if last is None else f" at {last.function} in '{last.place or 'the network'}'"

    try:
        with backward_errors(near):
            R.backward()  # type: ignore[no-untyped-call]  # torch's own
    finally:
        guard.remove()
        for tensor, gradient in journal.strangers:
            tensor.grad = gradient


def _reached_last(journal: Journal) -> Operation | None:
    """The operation to whose results gradients came, and from which none went on."""
    for operation in reversed(journal.operations):
        came = any(result.by_output is not None for result in operation.results)
        if came and operation.uses and all(use.by_output is None for use in operation.uses):
            return operation
    return None
