"""The flow through every tensor of a network, on every use.

The flow of a tensor ``t`` along one use is ``t ⊙ ∂R/∂t`` with the gradient that comes back from
that use, summed over batch and positions: one number a channel. One forward and one backward give
all of it. The forward is recorded operation by operation while it runs (a ``TorchFunctionMode``),
which covers models that torch.fx cannot trace too: what a user's Python does between operations
does not matter. A composite operation (``F.multi_head_attention_forward``) is one operation.

Nothing of the user's is changed: the model runs on stand-ins, and in-place operations run out of
place, because they would overwrite a tensor whose flow is still wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from collapse.errors import RequestError
from collapse.flow.recorder import INPUT, SOURCE, Operation, Recorder, Use, current, tap_tensor
from collapse.models import Selector, call


@dataclass
class Trace:
    """A forward and a backward, recorded.

    Attributes:
        operations: in order of execution.
        output: the use of the network's output by ``R``: its flow is ``⟨∂R/∂y, y⟩``.
        R: the scalar.
        unit: what flows are given in multiples of.
    """

    operations: list[Operation]
    output: Use
    R: float
    unit: float = 1.0

    def in_units_of_its_output(self) -> Trace:
        """The same with all flows divided by the absolute flow at the output, if that is below 1.

        Flows are linear in ``R``. A residual divides by ``max(1, absolute flow)``, so the flow of
        a small ``R`` has to be brought up to 1 first: nothing could fail otherwise. Changes the
        notes in place.
        """
        if not 0 < self.output.scale < 1:
            return self
        unit = self.output.scale
        uses = {id(use): use for op in self.operations for use in (*op.uses, *op.results)}
        for use in (*uses.values(), self.output):
            for name in ("units", "inputs", "absolute", "gradient"):
                if (value := getattr(use, name)) is not None:
                    setattr(use, name, value / unit)
        return Trace(self.operations, self.output, self.R, unit)


@contextmanager
def _module_paths(model: nn.Module) -> Iterator[Callable[[], str]]:
    """A function that tells which module is running. Global hooks: the model gets none."""
    paths = {id(module): path for path, module in model.named_modules()}
    stack: list[str] = []

    def enter(module: nn.Module, _: Any) -> None:
        stack.append(paths.get(id(module), stack[-1] if stack else ""))

    def leave(*_: Any) -> None:
        stack.pop()

    before = module_hooks.register_module_forward_pre_hook(enter)
    after = module_hooks.register_module_forward_hook(leave, always_call=True)
    try:
        yield lambda: stack[-1] if stack else ""
    finally:
        before.remove()
        after.remove()


def record(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    inputs: Tensor,
    scalar: Callable[[Tensor], Tensor],
    output: Selector = None,
) -> Trace:
    """Run a model once forward and once backward, and note the flow of every tensor.

    Args:
        tensors: the model's state, as from ``functional.stand_ins``; parameters among them are
            those that the flow is followed to.
        inputs: ``[batch, …]``; floating-point inputs are a source of flow too.
        scalar: gives ``R`` from the model's output tensor.
        output: selects a tensor from a forward that returns several.

    Raises:
        RequestError: ``R`` is no scalar or does not depend on the parameters, an activation is not
            finite (the first is named), or the forward fails.
    """
    names = {name for name, _ in model.named_parameters()}
    state = {
        name: tensor.detach().requires_grad_() if name in names else tensor
        for name, tensor in tensors.items()
    }
    x = inputs.detach()
    if x.is_floating_point():
        x = x.requires_grad_()
        object.__setattr__(x, SOURCE, INPUT)
    parameters = {name: state[name] for name in names}
    with torch.enable_grad(), _module_paths(model) as where:
        recorder = Recorder(parameters, where)
        with recorder:
            y = current(call(model, state, x, output))
        source = getattr(y, SOURCE, None)
        if source is None or source == INPUT:
            raise RequestError(
                "R does not depend on the parameters: the model's output was computed without them"
            )
        end = Use(source, None, None, "output")
        recorder.operations[source].outputs.append(end)
        R = scalar(tap_tensor(y, end))
        if not isinstance(R, Tensor) or R.numel() != 1:
            got = tuple(R.shape) if isinstance(R, Tensor) else type(R).__name__
            raise RequestError(f"R must be a scalar tensor: expected shape (), got {got}")
        if not R.requires_grad:
            raise RequestError("R does not depend on the parameters: it has no gradient")
        R.backward()  # type: ignore[no-untyped-call]  # torch's own
    return Trace(recorder.operations, end, float(R.detach()))
