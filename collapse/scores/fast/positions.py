"""Feature maps of which only the distinct rows and columns are computed.

SynFlow's input is the same at every position, so a feature map takes few distinct rows and
columns: the border spreads by one position a 3×3 convolution, and all of the interior is one value.
Positions that see the same are a *class*, along each axis by itself: an output row's class is the
tuple of the classes of the input rows, padding included, that its kernel sees. One row and one
column of each class are kept, and gradients are summed over the places that share one, by the chain
rule.

The model finds a *stand-in* in the place of such a map; the operations in ``_rules`` are computed
on what is kept, and any other one is given the whole map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from collapse.models import mapped, tensors_in
from collapse.scores.fast.classes import (
    Classes,
    choice,
    gathered,
    joined,
    place_tensor,
    repeated,
    seen,
)
from collapse.scores.fast.matmul import pair_of

# Past this share of a map's positions the classes are dropped: gathering them would cost more.
BELOW = 0.5
# Inputs of fewer positions are left as they are: what is saved there goes into calls. In float64,
# where a convolution of a whole map is slow, they pay on smaller ones; float32 keeps its rounding.
LEAST, LEAST_IN_FLOAT64 = 64 * 64, 32 * 32


@dataclass
class Kept:
    """A map ``[n, channels, height, width]`` by one row and one column of each class.

    Attributes:
        values: ``[n, channels, row classes, column classes]``.
        whole: the map itself, once an operation has asked for it; that one counts from then on.
    """

    values: Tensor
    rows: Classes
    columns: Classes
    whole: Tensor | None = None

    def expanded(self) -> Tensor:
        """The whole map; differentiable, wherever it is first asked for."""
        if self.whole is None:
            with torch.enable_grad():
                by_row = self.values.index_select(2, place_tensor(self.rows, self.values.device))
                self.whole = by_row.index_select(3, place_tensor(self.columns, self.values.device))
        return self.whole


class _StandIn(torch.autograd.Function):
    """Of the map's shape, without memory of its own, and NaN wherever a call that no mode sees
    would read it. A function of the user's own is such a call, whose parts are seen: what it gives
    back as its gradient by place is summed by class.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Classes, columns: Classes) -> Tensor:
        ctx.classes, ctx.counts = (rows, columns), values.shape[2:]
        shape = (*values.shape[:2], len(rows), len(columns))
        return values.new_full((), float("nan")).expand(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        g = gradients[0]
        by_row, by_column = (
            choice(classes, count, g)
            for classes, count in zip(ctx.classes, ctx.counts, strict=True)
        )
        return by_row.t() @ g @ by_column, None, None


class PositionClasses(TorchFunctionMode):
    """Inside it, operations on maps that have entered are computed once a class of positions.

    Args:
        below: the share of positions up to which classes are kept; 0 for none.
        least: positions of an input that is worth it; None for what pays in its precision.
    """

    def __init__(self, below: float = BELOW, least: int | None = None) -> None:
        super().__init__()
        self._below, self._least = below, least
        self._kept: Any = WeakIdKeyDictionary()  # by stand-in

    def enter(self, x: Tensor) -> Tensor:
        """A stand-in for a map that is the same at every position; any other tensor as it is."""
        if not self._below or x.ndim != 4 or not x.is_floating_point() or not x.numel():
            return x
        pays = LEAST_IN_FLOAT64 if x.dtype == torch.float64 else LEAST
        if x.shape[2] * x.shape[3] < (pays if self._least is None else self._least):
            return x
        corner = x[..., :1, :1]
        if not torch.equal(x, corner.expand_as(x)):
            return x
        rows, columns = ((0,) * size for size in x.shape[2:])
        return self._stand_in(Kept(corner.clone(), rows, columns))

    def expanded(self, x: Any) -> Any:
        """Arguments or outputs with the whole maps in place of the stand-ins."""

        def whole(tensor: Tensor, _: str) -> Tensor:
            kept = self.kept(tensor)
            return tensor if kept is None else kept.expanded()

        return mapped(whole, x)

    def kept(self, x: Any) -> Kept | None:
        """What a stand-in stands for; None for anything else."""
        found: Kept | None = self._kept.get(x) if isinstance(x, Tensor) else None
        return found

    def _stand_in(self, kept: Kept) -> Tensor:
        stand_in: Tensor = _StandIn.apply(kept.values, kept.rows, kept.columns)
        self._kept[stand_in] = kept
        return stand_in

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        maps = [kept for x in tensors_in((args, kwargs)) if (kept := self.kept(x)) is not None]
        if not maps or func in _ASKS:
            return func(*args, **kwargs)
        # Inside a function of the user's own there are no gradients: it brings its own.
        rule = _RULES.get(func) if torch.is_grad_enabled() else None
        first = self.kept(args[0]) if args else None
        if rule is not None and all(kept.whole is None for kept in maps):
            found = rule(self, func, args, kwargs)
            if isinstance(found, Kept):
                if first is not None and found.values is first.values:  # in place, or nothing done
                    return args[0]
                share = found.values.shape[2] * found.values.shape[3]
                if share <= self._below * len(found.rows) * len(found.columns):
                    return self._stand_in(found)
                return found.expanded()
            if found is not None:
                return found
        return func(*self.expanded(args), **self.expanded(kwargs))


# --- Rules: what is kept of the result, the result itself, or None for "the whole map" -----------

Rule = Callable[[PositionClasses, Callable[..., Any], tuple[Any, ...], Mapping[str, Any]], Any]


def _alone(places: PositionClasses, args: tuple[Any, ...], options: Mapping[str, Any]) -> bool:
    """Whether the first argument is the only map."""
    others = tensors_in((args[1:], options))
    return places.kept(args[0]) is not None and all(places.kept(x) is None for x in others)


def _pointwise(
    places: PositionClasses, func: Callable[..., Any], args: Any, options: Mapping[str, Any]
) -> Kept | None:
    """A function of each number by itself."""
    if not args or any(True for _ in tensors_in((args[1:], options))):
        return None
    x = places.kept(args[0])
    if x is None:
        return None
    return Kept(func(x.values, *args[1:], **options), x.rows, x.columns)


def _dropout(
    places: PositionClasses, func: Callable[..., Any], args: Any, options: Mapping[str, Any]
) -> Kept | None:
    training = options.get("training", args[2] if len(args) > 2 else True)
    return None if training else _pointwise(places, func, args, options)


def _by_channel(
    places: PositionClasses, func: Callable[..., Any], args: Any, options: Mapping[str, Any]
) -> Kept | None:
    """A function of each number and its channel's parameters: BatchNorm with running statistics."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "training")
    given = {**dict(zip(names, args, strict=False)), **options}
    batch = func is F.batch_norm and (given.get("training") or given.get("running_mean") is None)
    if batch or not args or not _alone(places, args, options):
        return None
    x = places.kept(args[0])
    assert x is not None
    return Kept(func(x.values, *args[1:], **options), x.rows, x.columns)


_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_POOL = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_MEAN = ("input", "kernel_size", "stride", "padding", "ceil_mode", "_", "divisor_override")


def _convolution(
    places: PositionClasses, func: Callable[..., Any], args: Any, options: Mapping[str, Any]
) -> Kept | None:
    given = {**dict(zip(_CONVOLUTION, args, strict=False)), **options}
    x = places.kept(given["input"])
    if x is None or isinstance(given.get("padding"), str) or len(given["weight"].shape) != 4:
        return None
    kernel = tuple(given["weight"].shape[2:])
    windows = _windows(x, kernel, given, stride=1)
    if windows is None:
        return None
    (rows, row_index), (columns, column_index) = windows
    if _many(places, rows, columns):
        return None
    values = func(
        *(gathered(x.values, row_index, column_index), given["weight"], given.get("bias")),
        stride=kernel,
        groups=given.get("groups", 1),
    )
    return Kept(values, rows, columns)


def _pool(
    places: PositionClasses, func: Callable[..., Any], args: Any, options: Mapping[str, Any]
) -> Kept | None:
    maximum = func in _MAXIMA
    given = {**dict(zip(_POOL if maximum else _MEAN, args, strict=False)), **options}
    x = places.kept(given["input"])
    if x is None or given.get("return_indices") or given.get("divisor_override"):
        return None
    kernel = pair_of(given["kernel_size"])
    if not maximum and (given.get("ceil_mode") or pair_of(given.get("padding", 0)) != (0, 0)):
        return None  # what is divided by differs from place to place
    windows = _windows(x, kernel, given, stride=given.get("stride") or kernel)
    if windows is None:
        return None
    (rows, row_index), (columns, column_index) = windows
    if _many(places, rows, columns):
        return None
    # A window's maximum does not change if what is outside repeats what is inside.
    row_index, column_index = repeated(row_index, kernel[0]), repeated(column_index, kernel[1])
    values = func(gathered(x.values, row_index, column_index), kernel, kernel)
    return Kept(values, rows, columns)


def _windows(
    x: Kept, kernel: tuple[int, ...], given: Mapping[str, Any], stride: Any
) -> list[tuple[Classes, Classes]] | None:
    """``seen`` along both axes; None where no position is left."""
    strides, paddings = pair_of(given.get("stride") or stride), pair_of(given.get("padding", 0))
    dilations = pair_of(given.get("dilation", 1))
    found = []
    for axis, classes in enumerate((x.rows, x.columns)):
        room = len(classes) + 2 * paddings[axis] - dilations[axis] * (kernel[axis] - 1) - 1
        size = room // strides[axis] + 1
        if given.get("ceil_mode") and room % strides[axis]:
            # As torch has it: a window begins inside the map or its padding in front.
            size += (size * strides[axis]) < len(classes) + paddings[axis]
        if room < 0:
            return None
        found.append(
            seen(classes, size, kernel[axis], strides[axis], paddings[axis], dilations[axis])
        )
    return found


def _many(places: PositionClasses, rows: Classes, columns: Classes) -> bool:
    """Whether so many classes are left that the whole map is the faster way."""
    share = (max(rows) + 1) * (max(columns) + 1)
    return share > places._below * len(rows) * len(columns)


def _mean(
    places: PositionClasses, func: Callable[..., Any], args: Any, options: Mapping[str, Any]
) -> Tensor | None:
    """The mean over all positions, each class as often as it occurs."""
    x = places.kept(args[0]) if args else None
    if x is None:
        return None
    if func is F.adaptive_avg_pool2d:
        wanted = options.get("output_size", args[1] if len(args) > 1 else None)
        if wanted is None or (wanted != 1 and tuple(pair_of(wanted)) != (1, 1)):
            return None
        keep = True
    else:
        names = dict(zip(("dim", "keepdim"), args[1:], strict=False)) | dict(options)
        dims = names.get("dim")
        if not isinstance(dims, list | tuple) or sorted(d % 4 for d in dims) != [2, 3]:
            return None
        if set(names) - {"dim", "keepdim"}:
            return None
        keep = bool(names.get("keepdim", False))
    weights = [
        torch.bincount(place_tensor(classes, x.values.device)).to(x.values.dtype) / len(classes)
        for classes in (x.rows, x.columns)
    ]
    mean = (x.values @ weights[1]) @ weights[0]
    return mean[..., None, None] if keep else mean


def _binary(
    places: PositionClasses, func: Callable[..., Any], args: Any, options: Mapping[str, Any]
) -> Kept | None:
    """A sum or product of two maps, or of one and a number a channel."""
    if len(args) != 2 or any(True for _ in tensors_in(options)):
        return None
    one, other = map(places.kept, args)
    if one is not None and other is not None:
        if args[0].shape[1:] != args[1].shape[1:]:
            return None
        rows, *row_index = joined(one.rows, other.rows)
        columns, *column_index = joined(one.columns, other.columns)
        pair = zip((one, other), row_index, column_index, strict=True)
        first, second = (gathered(kept.values, r, c) for kept, r, c in pair)
        result = Kept(func(first, second, **options), rows, columns)
        if func in _IN_PLACE:
            one.values, one.rows, one.columns = result.values, rows, columns
            return one
        return result
    kept = one or other
    assert kept is not None
    term = args[1] if one is not None else args[0]
    if isinstance(term, Tensor) and not (term.ndim == 0 or tuple(term.shape[-2:]) == (1, 1)):
        return None
    if isinstance(term, Tensor) and (term.ndim > 4 or (one is None and func in _IN_PLACE)):
        return None
    parts = (kept.values, term) if one is not None else (term, kept.values)
    return Kept(func(*parts, **options), kept.rows, kept.columns)


def _join(
    places: PositionClasses, func: Callable[..., Any], args: Any, options: Mapping[str, Any]
) -> Kept | None:
    """Channels of several maps side by side."""
    dim = options.get("dim", args[1] if len(args) > 1 else 0)
    parts = [places.kept(part) for part in args[0]]
    whole = [part for part in parts if part is not None]
    if dim not in (1, -3) or len(whole) < len(parts):
        return None
    if len({(len(part.rows), len(part.columns)) for part in whole}) > 1:
        return None
    rows, columns = whole[0].rows, whole[0].columns
    for part in whole[1:]:
        rows, columns = joined(rows, part.rows)[0], joined(columns, part.columns)[0]
    values = [
        gathered(part.values, joined(rows, part.rows)[2], joined(columns, part.columns)[2])
        for part in whole
    ]
    return Kept(func(values, 1), rows, columns)


def _maximum(
    places: PositionClasses, func: Callable[..., Any], args: Any, options: Mapping[str, Any]
) -> Tensor | None:
    """The largest number of all, which occurs in what is kept."""
    x = places.kept(args[0])
    if x is None or len(args) > 1 or options:
        return None
    result: Tensor = func(x.values)
    return result


def _functions(*names: str) -> list[Callable[..., Any]]:
    """The functions of these names, and their in-place forms, wherever torch has them."""
    return [
        getattr(namespace, name)
        for namespace in (F, torch, Tensor)
        for base in names
        for name in (base, f"{base}_")
        if hasattr(namespace, name)
    ]


_MAXIMA = frozenset(_functions("max_pool2d"))
_SUMS = ("add", "sub", "mul", "div", "__add__", "__radd__", "__sub__", "__mul__", "__rmul__")
_IN_PLACE = frozenset(
    [getattr(Tensor, f"{name}_") for name in ("add", "sub", "mul", "div")]
    + [getattr(Tensor, f"__i{name}__") for name in ("add", "sub", "mul", "truediv")]
)
_UNARY = (
    *("relu", "relu6", "leaky_relu", "hardtanh", "elu", "selu", "celu", "gelu", "silu", "mish"),
    *("hardswish", "hardsigmoid", "sigmoid", "tanh", "softplus", "clone", "detach", "abs"),
)
_RULES: dict[Callable[..., Any], Rule] = {
    **dict.fromkeys(_functions(*_UNARY), _pointwise),
    **dict.fromkeys(_functions("dropout", "dropout2d"), _dropout),
    **dict.fromkeys((F.batch_norm, F.prelu), _by_channel),
    F.conv2d: _convolution,
    **dict.fromkeys((*_MAXIMA, F.avg_pool2d), _pool),
    **dict.fromkeys((F.adaptive_avg_pool2d, torch.mean, Tensor.mean), _mean),
    **dict.fromkeys([*_functions(*_SUMS), Tensor.__truediv__, *_IN_PLACE], _binary),
    **dict.fromkeys((torch.cat, torch.concat), _join),
    **dict.fromkeys((torch.max, Tensor.max, Tensor.amax), _maximum),
}
# What asks for a form, which a stand-in knows.
_FORMS = ("shape", "ndim", "dtype", "device", "is_cuda")
_ASKS = frozenset(
    [getattr(Tensor, name).__get__ for name in _FORMS]
    + [Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, torch.is_floating_point]
    + [torch.numel, Tensor.__len__, Tensor.ndimension]
)
