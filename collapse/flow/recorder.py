"""Record a forward pass operation by operation, with taps that note the flow on the way back."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from collapse.errors import RequestError
from collapse.models import all_finite

INPUT = -1  # the place of the network's input among the operations


@dataclass
class Use:
    """One tensor on one use by one operation.

    Attributes:
        producer: index of the operation that made the tensor (``INPUT`` for the network's input);
            None for a parameter.
        consumer: index of the operation that uses it; None for the use as the network's output.
        parameter: its name, if the tensor is a parameter.
        slot: which argument of the operation it is: a position or a keyword.
        units: flow a channel (dimension 1 of a batch), float64; of a parameter, a unit of its
            output dimension. None until the backward, and where no gradient came.
        inputs: of the weight of a linear map, the flow a unit of its input.
        absolute: sum of ``|t ⊙ ∂R/∂t|`` a channel.
        gradient: of a parameter of one dimension, ``∂R/∂θ``.
    """

    producer: int | None
    consumer: int | None
    parameter: str | None
    slot: int | str
    units: Tensor | None = None
    inputs: Tensor | None = None
    absolute: Tensor | None = None
    gradient: Tensor | None = None

    @property
    def total(self) -> float:
        """The flow of the whole tensor."""
        return 0.0 if self.units is None else float(self.units.sum())

    @property
    def scale(self) -> float:
        """The absolute flow of the whole tensor."""
        return 0.0 if self.absolute is None else float(self.absolute.sum())


@dataclass
class Operation:
    """One recorded operation.

    Attributes:
        index: its place in the order of execution.
        function: its name, e.g. ``conv2d``.
        place: the innermost module that ran it, e.g. ``layer1.0.conv1``.
        uses: of tensors that depend on the input or on parameters.
        outputs: the uses of its results, in order of execution.
        out_total, out_scale: flow and absolute flow of its results over all their uses.
        out_units: flow a channel of its (only) result, over all its uses.
        constants: how it was called, for the few operations whose law needs it.
    """

    index: int
    function: str
    place: str
    uses: list[Use] = field(default_factory=list)
    outputs: list[Use] = field(default_factory=list)
    results: list[Use] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)

    @property
    def out_total(self) -> float:
        """Flow of its results, from the gradient that all their uses add up to."""
        return sum(result.total for result in self.results)

    @property
    def out_scale(self) -> float:
        """Absolute flow of its results."""
        return sum(result.scale for result in self.results)

    @property
    def out_units(self) -> Tensor | None:
        """Flow a channel of its only result."""
        return self.results[0].units if len(self.results) == 1 else None

    def use(self, slot: int, keyword: str) -> Use | None:
        """The use of one argument, by position or keyword."""
        return next((use for use in self.uses if use.slot in (slot, keyword)), None)


LINEAR = frozenset(
    {
        *("linear", "conv1d", "conv2d", "conv3d"),
        *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    }
)


def unit_sums(values: Tensor, groups: int = 1, transposed: bool = False) -> tuple[Tensor, Tensor]:
    """Sums over a weight's entries: one for each unit of its output and of its input, float64.

    Args:
        values: ``[out, in / groups, …]``, of a transposed convolution ``[in, out / groups, …]``.
    """
    table = wide(values.flatten(2).sum(-1) if values.ndim > 2 else values)
    rows = table.sum(1)
    columns = table.reshape(groups, -1, table.shape[1]).sum(1).reshape(-1)
    return (columns, rows) if transposed else (rows, columns)


class _Tap(torch.autograd.Function):
    """The identity, which notes the flow when the gradient comes back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, note: Callable[[Tensor, Tensor], None], leaf: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.note, ctx.leaf = note, leaf
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        (x,) = ctx.saved_tensors
        ctx.note(x, gradients[0])
        # Past a parameter nobody wants the gradient: not passing it on saves its memory.
        return (None if ctx.leaf else gradients[0]), None, None


def tap_tensor(
    x: Tensor, use: Use, *, channel: int = 1, groups: int = 1, transposed: bool = False
) -> Tensor:
    """``x`` itself, noting its flow in ``use`` when the gradient comes back."""
    if use.parameter is None:
        note = functools.partial(_note_tensor, use, channel)
    else:
        note = functools.partial(_note_parameter, use, groups, transposed)
    tapped: Tensor = _Tap.apply(x, note, use.parameter is not None)
    return tapped


def _note_tensor(use: Use, channel: int, x: Tensor, gradient: Tensor) -> None:
    flow = x * gradient
    flow = flow.reshape(1, -1) if flow.ndim < 2 else flow.movedim(channel, 1)
    use.units = _by_channel(flow)
    use.absolute = _by_channel(flow.abs_())


def _by_channel(flow: Tensor) -> Tensor:
    """Positions are summed in the tensor's own precision, then the batch in float64."""
    return wide(flow.flatten(2).sum(-1) if flow.ndim > 2 else flow).sum(0).cpu()


def wide(x: Tensor) -> Tensor:
    """In float64, on the CPU where the device (MPS) has none. Notes are kept on the CPU."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def _note_parameter(use: Use, groups: int, transposed: bool, x: Tensor, gradient: Tensor) -> None:
    if x.ndim < 2:
        use.gradient = wide(gradient.detach()).reshape(-1).cpu()
    saliency = x * gradient
    if saliency.ndim < 2:
        use.units = wide(saliency).reshape(-1).cpu()
        use.absolute = use.units.abs()
        return
    units, inputs = unit_sums(saliency, groups, transposed)
    use.units, use.inputs = units.cpu(), inputs.cpu()
    use.absolute = wide(saliency.abs_().sum()).reshape(1).cpu()


SOURCE = "_flow_source"


_CHANNEL = "_flow_channel"  # -1 behind a Linear, whose units are the last dimension; else 1


_REDIRECT = "_flow_redirect"


# Operations that read a tensor's form, not its values.
_IGNORED = frozenset({
    *("size", "dim", "numel", "stride", "is_floating_point", "requires_grad_", "detach", "item"),
    *("tolist", "is_contiguous", "data_ptr", "element_size", "get_device", "storage_offset"),
    *("__bool__", "__len__", "__repr__", "__format__"),
})  # fmt: skip


class Recorder(TorchFunctionMode):
    """Runs each operation out of place on tapped tensors, and lists it in ``operations``."""

    def __init__(self, parameters: Mapping[str, Tensor], where: Callable[[], str]) -> None:
        super().__init__()
        self.names = {id(tensor): name for name, tensor in parameters.items()}
        self.where = where
        self.operations: list[Operation] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        args, options = tree_map(current, (args, options))
        if name in _IGNORED:
            return func(*args, **options)
        if name == "__get__" and not isinstance(value := func(*args), Tensor):
            return value  # a shape, a device; x.T is an operation
        changed = args[0] if args and _is_in_place(name) else None
        func, name, args, options = _out_of_place(func, name, args, options)
        operation = Operation(len(self.operations), name, self.where())
        tapped_args = tuple(
            self._tapped(argument, position, operation, args, options)
            for position, argument in enumerate(args)
        )
        tapped_options = {
            key: self._tapped(value, key, operation, args, options)
            for key, value in options.items()
        }
        result = func(*tapped_args, **tapped_options)
        if not operation.uses:
            return result
        operation.constants = _constants(name, args, options)
        noted: list[Tensor] = []
        tensors = (a for a in args if isinstance(a, Tensor) and hasattr(a, SOURCE))
        carried = next(tensors, None)
        result = tree_map(lambda part: self._noted(part, operation, noted, carried), result)
        if noted:
            self.operations.append(operation)
            for use in operation.uses:
                if use.producer is not None and use.producer != INPUT:
                    self.operations[use.producer].outputs.append(use)
        if isinstance(changed, Tensor):
            object.__setattr__(changed, _REDIRECT, result)
        return result

    def _tapped(
        self,
        argument: Any,
        slot: int | str,
        operation: Operation,
        args: tuple[Any, ...],
        options: Mapping[str, Any],
    ) -> Any:
        def tap(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            parameter = self.names.get(id(x))
            source = getattr(x, SOURCE, None)
            if parameter is None and source is None:
                return x
            use = Use(None if parameter else source, operation.index, parameter, slot)
            operation.uses.append(use)
            if parameter is not None and operation.function in LINEAR and slot in (1, "weight"):
                return tap_tensor(x, use, **_layout(operation.function, args, options))
            last = operation.function == "linear" and slot in (0, "input")
            return tap_tensor(x, use, channel=-1 if last else getattr(x, _CHANNEL, 1))

        return tree_map(tap, argument)

    def _noted(
        self, part: Any, operation: Operation, noted: list[Tensor], carried: Tensor | None
    ) -> Any:
        if not (isinstance(part, Tensor) and part.requires_grad):
            return part
        values = part.detach()
        if not all_finite(values):
            where = operation.place or "the network"
            raise RequestError(
                f"the output of {operation.function} in '{where}' holds NaN or infinite values: "
                "expected finite activations"
            )
        use = Use(operation.index, None, None, len(noted))
        operation.results.append(use)
        channel = -1 if operation.function == "linear" else 1
        if operation.function != "linear" and carried is not None and carried.shape == part.shape:
            channel = getattr(carried, _CHANNEL, 1)
        part = tap_tensor(part, use, channel=channel)
        object.__setattr__(part, _CHANNEL, channel)
        noted.append(part)
        object.__setattr__(part, SOURCE, operation.index)
        return part


def current(x: Any) -> Any:
    """What an in-place operation has made of a tensor that the user still holds."""
    while isinstance(x, Tensor) and hasattr(x, _REDIRECT):
        x = getattr(x, _REDIRECT)
    return x


def _is_in_place(name: str) -> bool:
    others = ("__invert__", "__int__", "__index__")
    dunder = name.startswith("__i") and name.endswith("__") and name not in others
    return dunder or (name.endswith("_") and not name.endswith("__"))


def _out_of_place(
    func: Callable[..., Any], name: str, args: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Callable[..., Any], str, tuple[Any, ...], dict[str, Any]]:
    """The same operation without overwriting its input."""
    if _is_in_place(name):
        plain = f"__{name[3:]}" if name.startswith("__i") else name[:-1]
        twin = (
            getattr(Tensor, plain, None) or getattr(torch, plain, None) or getattr(F, plain, None)
        )
        if twin is None:
            raise RequestError(
                f"cannot follow the in-place operation '{name}': no '{plain}' exists"
            )
        return twin, plain, args, options
    if "inplace" in options:
        return func, name, args, {**options, "inplace": False}
    if inspect.isfunction(func):
        signature = inspect.signature(func)
        if "inplace" in signature.parameters:
            bound = signature.bind(*args, **options)
            bound.arguments["inplace"] = False
            return func, name, bound.args, bound.kwargs
    return func, name, args, options


def _layout(name: str, args: tuple[Any, ...], options: Mapping[str, Any]) -> dict[str, Any]:
    """How a linear map's weight is laid out."""
    # Position 6 in all of them: (…, dilation, groups), (…, output_padding, groups, dilation).
    groups = options.get("groups", args[6] if len(args) > 6 else 1)
    return {"groups": groups, "transposed": "transpose" in name}


def _constants(name: str, args: tuple[Any, ...], options: Mapping[str, Any]) -> dict[str, Any]:
    """What the laws need to know of the call beyond its tensors' flow."""
    if name in LINEAR:
        return _layout(name, args, options)
    if name == "batch_norm":
        bound = inspect.signature(F.batch_norm).bind(*args, **options)
        bound.apply_defaults()
        values = bound.arguments
        x = values["input"].detach()
        dims = [d for d in range(x.ndim) if d != 1]
        if values["training"]:
            variance = wide(x).var(dims, unbiased=False).cpu()
            return {"training": True, "epsilon": values["eps"], "variance": variance}
        mean, variance, gamma = values["running_mean"], values["running_var"], values["weight"]
        return {
            "training": False,
            "gamma": 1.0 if gamma is None else wide(gamma.detach()).cpu(),
            "mean": wide(mean).cpu(),
            "deviation": (wide(variance).cpu() + values["eps"]).sqrt(),
        }
    others = [a for a in (*args, *options.values()) if isinstance(a, Tensor | int | float)]
    constants = [a for a in others if not (isinstance(a, Tensor) and a.requires_grad)]
    return {"constants": len(constants)}
