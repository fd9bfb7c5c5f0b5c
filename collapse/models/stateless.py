"""Run a user's model on other tensors than its own, and leave no trace of having done so.

Everything that scores or inspects a network goes through here: the model's parameters, buffers,
gradients, training flags, hooks and the random state are afterwards exactly as before, also when
the model raises.
"""

from __future__ import annotations

import random
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from collapse.errors import RequestError, first_line
from collapse.options import Mode

Masks = dict[str, Tensor]


Selector = str | int | None


def all_finite(x: Tensor) -> bool:
    """Whether no entry is NaN or infinite. aminmax lets both through and allocates nothing."""
    return x.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(x))).all())


@contextmanager
def untouched(model: nn.Module, mode: Mode, seed: int = 0) -> Iterator[None]:
    """Put the model into ``mode`` and the random streams at ``seed``, and undo both afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    with streams_at(model, seed):
        try:
            model.train(mode == "train")
            yield
        finally:
            for module, training in flags:
                module.training = training
                if isinstance(module, nn.RNNBase):  # it keeps the tensors that it last ran on
                    module._init_flat_weights()


@contextmanager
def streams_at(model: nn.Module, seed: int) -> Iterator[None]:
    """Put every random stream that a forward may draw from at ``seed``, and undo it afterwards."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    # A user's forward may draw from Python's or NumPy's stream as well (stochastic depth does).
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=devices):
        try:
            if devices:
                torch.manual_seed(seed)
            else:  # the same without a millisecond of care for devices that are not used
                torch.default_generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def stand_ins(
    model: nn.Module,
    *,
    dtype: torch.dtype | None = None,
    parameter: Callable[[str, Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Detached tensors that take the place of a model's parameters and buffers in one call.

    Args:
        dtype: for floating-point tensors; the tensors' own without it.
        parameter: maps (name, detached parameter) to what takes its place; identity without it.

    Returns:
        One tensor a parameter (shared ones once) and a *copy* of each buffer, because a forward
        may update buffers in place (BatchNorm in train mode does).
    """
    tensors: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        value = weight.detach()
        if dtype is not None and value.is_floating_point():
            value = value.to(dtype)
        tensors[name] = value if parameter is None else parameter(name, value)
    for name, buffer in model.named_buffers():
        value = buffer.detach().clone()
        if dtype is not None and value.is_floating_point():
            value = value.to(dtype)
        tensors[name] = value
    return tensors


def call(
    model: nn.Module, tensors: Mapping[str, Tensor], inputs: Tensor, output: Selector = None
) -> Tensor:
    """The model's output tensor on ``inputs``, computed with ``tensors`` as its state.

    Args:
        tensors: by parameter and buffer name, as from ``stand_ins``.
        inputs: shape ``[batch, …]``.
        output: which part of the output is meant when it is a tuple, dict or named tuple: an
            index, a key or an attribute.

    Raises:
        RequestError: the forward fails on this input, or its output is no tensor.
    """
    tensors = dict(tensors)
    if isinstance(model, fx.GraphModule):  # a traced copy has only what the forward uses
        own = [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]
        tensors = {name: tensors[name] for name, _ in own if name in tensors}
    with forward_errors(inputs):
        result = functional_call(model, tensors, (inputs,), strict=False)
    return select_output(result, output)


class ContiguousGradients(TorchFunctionMode):
    """A forward in the block has right gradients in every memory layout.

    On a CPU, torch's backward of an eval-mode BatchNorm is wrong for a batch of one whose gradient
    arrives in a layout like channels-last, e.g. from ``flatten(2).transpose(1, 2)`` (torch 2.15.0).
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.compiler.is_compiling():  # what is traced goes on without us
            return result
        return with_contiguous_gradient(func, result)


def with_contiguous_gradient(func: Callable[..., Any], result: Any) -> Any:
    """The result of a call, whose gradient is made contiguous if the call is a BatchNorm."""
    if func in (F.batch_norm, torch.batch_norm) and result.requires_grad:
        result.register_hook(Tensor.contiguous)
    return result


@contextmanager
def forward_errors(inputs: Tensor) -> Iterator[None]:
    """Whatever a forward in the block raises becomes a RequestError that names the input."""
    try:
        yield
    except (torch.OutOfMemoryError, RequestError):
        raise
    except Exception as error:  # the forward is the user's and may raise anything
        raise RequestError(
            f"the model's forward failed on an input of shape {tuple(inputs.shape)}: "
            f"{first_line(error)} (another shape: --dataset gaussian --input-shape C H W)"
        ) from error


def select_output(result: Any, output: Selector) -> Tensor:
    """The tensor that is meant by ``output`` of what a forward returned (see ``call``)."""
    if isinstance(result, Tensor):
        return result
    kind = type(result).__name__
    if isinstance(result, Mapping):
        parts = {str(key): value for key, value in result.items()}
    elif hasattr(result, "_asdict"):
        parts = result._asdict()
    elif isinstance(result, list | tuple):
        parts = {str(index): value for index, value in enumerate(result)}
    else:
        parts = dict(vars(result)) if hasattr(result, "__dict__") else {}
    names = ", ".join(parts) or "none"
    if output is None:
        raise RequestError(
            f"expected the model to return a tensor, got {kind} with parts {names}; "
            "choose one with --output NAME (in Python output=NAME)"
        )
    chosen = parts.get(str(output))
    if chosen is None and isinstance(output, str | int) and str(output).lstrip("-").isdigit():
        values = list(parts.values())
        index = int(output)
        chosen = values[index] if -len(values) <= index < len(values) else None
    if not isinstance(chosen, Tensor):
        raise RequestError(
            f"output '{output}' of the model is no tensor: expected one of {names} of its {kind}"
        )
    return chosen


def compute_dtype(model: nn.Module) -> torch.dtype:
    """Half-precision models are scored in float32: their range holds no product of layers."""
    widest = max(
        (p.dtype for p in model.parameters() if p.is_floating_point()),
        key=lambda dtype: torch.finfo(dtype).bits,
    )
    return torch.float64 if widest == torch.float64 else torch.float32


def kept_parameters(masks: Masks) -> Callable[[str, Tensor], Tensor]:
    """For ``stand_ins``: masked, and all in memory of their own (a forward may write there)."""
    return lambda name, value: value * masks[name] if name in masks else value.clone()


def opened(func: Callable[..., Any]) -> Callable[..., Any]:
    """A function of torch.nn.functional that calls its parts instead of handing itself over."""
    assert isinstance(func, types.FunctionType)
    inside = {**func.__globals__, "has_torch_function": lambda _: False}
    found = types.FunctionType(func.__code__, inside, func.__name__, func.__defaults__)
    found.__kwdefaults__ = func.__kwdefaults__
    return found


def tensors_in(x: Any) -> Iterator[Tensor]:
    """All tensors in nested arguments."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, list | tuple):
        for part in x:
            yield from tensors_in(part)
    elif isinstance(x, Mapping):
        yield from tensors_in(list(x.values()))
