"""Run a user's model on other tensors than its own, and leave no trace of having done so.

Everything that scores or inspects a network goes through here: the model's parameters, buffers,
gradients, training flags, hooks and the random state are afterwards exactly as before, also when
the model raises.
"""

from __future__ import annotations

import random
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from collapse.errors import RequestError
from collapse.models.batches import Inputs, Ones, arguments
from collapse.models.failures import forward_errors
from collapse.models.lookups import Lookups
from collapse.models.outputs import Selector, select_output
from collapse.options import Mode

Masks = dict[str, Tensor]


def all_finite(x: Tensor) -> bool:
    """Whether no entry is NaN or infinite. aminmax lets both through and allocates nothing."""
    x = torch.view_as_real(x) if x.is_complex() else x
    return x.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(x))).all())


@contextmanager
def untouched(
    model: nn.Module, mode: Mode, seed: int = 0, *, trains: bool = False
) -> Iterator[None]:
    """Put the model into ``mode`` and the random streams at ``seed``, and undo both afterwards.

    Args:
        trains: what the forward leaves in modules stays there, such as a counter of steps. Without
            it that is undone as well: a cache would be of the tensors that stood in.
    """
    flags = [(module, module.training) for module in model.modules()]
    before = [] if trains else [(module, dict(vars(module))) for module, _ in flags]
    with streams_at(model, seed):
        try:
            if mode == "train":  # a frozen norm says so in a ``train`` of its own
                model.train()
            else:  # not by ``eval``: an adapter that merges itself there could not be put back
                for module, _ in flags:
                    module.training = False
            yield
        finally:
            for module, attributes in before:
                own = vars(module)
                for name in own.keys() - attributes.keys():
                    del own[name]
                own.update(attributes)
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
        One tensor a parameter (shared ones once) and one a buffer, in memory of their own, because
        a forward may write into them (BatchNorm in train mode does).
    """
    tensors: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        value = weight.detach()
        if dtype is not None and value.is_floating_point():
            value = value.to(dtype)
        given = value if parameter is None else parameter(name, value)
        # In memory of its own: a forward may write into it (an embedding with max_norm does).
        tensors[name] = given.clone() if given is value else given
    for name, buffer in model.named_buffers():
        value = buffer.detach().clone()
        if dtype is not None and value.is_floating_point():
            value = value.to(dtype)
        tensors[name] = value
    return tensors


def call(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    inputs: Inputs | Ones,
    output: Selector = None,
) -> Any:
    """The model's output on ``inputs``, computed with ``tensors`` as its state.

    Args:
        tensors: by parameter and buffer name, as from ``stand_ins``.
        inputs: a tensor ``[batch, …]``, a tuple of arguments or a dict of keywords; under ``Ones``
            the ids of tokens enter as ones.
        output: which part of the output is meant when it is a tuple, dict or named tuple: an
            index, a key or an attribute; ``"all"`` for all of it.

    Returns:
        A tensor; whatever the model returns for ``"all"``.

    Raises:
        RequestError: the forward fails on this input, its output is no tensor, or integers under
            ``Ones`` are looked up nowhere.
    """
    return select_output(_run(model, tensors, inputs), output)


def returns_several(model: nn.Module, tensors: Mapping[str, Tensor], inputs: Inputs) -> bool:
    """Whether a forward returns anything but one tensor; also where it fails, which others say."""
    try:
        return not isinstance(_run(model, tensors, inputs), Tensor)
    except RequestError:
        return True


def _run(model: nn.Module, tensors: Mapping[str, Tensor], inputs: Inputs | Ones) -> Any:
    lookups = None
    if isinstance(inputs, Ones):
        lookups = Lookups(model, tensors, inputs) if inputs.ids() else None
        inputs = inputs.inputs
    args, keywords = arguments(inputs)
    with forward_errors(model, inputs), lookups or nullcontext():
        result = functional_call(model, _slots(model, tensors), args, keywords, tie_weights=False)
    if lookups is not None:
        lookups.check()
    return result


def _slots(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What takes each place of the model, a place once: a module may have several names.

    Given a place under two names torch does not restore it (2.15): the model would keep what was
    to stand in for one call. Of what a traced copy does not have, nothing is given to it.
    """
    places: dict[str, Tensor] = {}
    given: dict[int, Tensor] = {}
    seen: set[int] = set()
    for path, module in model.named_modules(remove_duplicate=False):
        for own in (module._parameters, module._buffers):
            for attribute, value in own.items():
                if value is None:
                    continue
                name = f"{path}.{attribute}" if path else attribute
                if name in tensors:
                    given.setdefault(id(value), tensors[name])
                if id(module) not in seen:
                    places[name] = value
        seen.add(id(module))
    return {name: given[id(value)] for name, value in places.items() if id(value) in given}


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


def functions(*names: str) -> list[Callable[..., Any]]:
    """The functions of these names and their in-place forms, wherever torch has them."""
    return [
        getattr(namespace, name)
        for namespace in (F, torch, Tensor)
        for base in names
        for name in (base, f"{base}_")
        if hasattr(namespace, name)
    ]


def is_zero(x: Any) -> bool:
    """Whether an argument is zero, or a tensor of zeros."""
    return not bool(x.any()) if isinstance(x, Tensor) else isinstance(x, int | float) and x == 0
