"""Every operation as one that only says *connected or not*.

Normalisations and activations pass, a maximum becomes a mean, and what does not come from the input
(biases, class tokens, positions) adds nothing. A number that is added is remembered: a factor
``1 + g`` is open, whether ``g`` is there or not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from collapse.connectivity.noise import noisy, uneven
from collapse.connectivity.recurrent import RECURRENT
from collapse.models import functions, is_zero, opened, tensors_in


def _first(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _ones(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.ones_like(x)


def _positive(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Another tensor than ``x``, which is no open factor."""
    return x.view_as(x)


def _gate(x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Functions that are not zero at zero: open, and dependent on their input."""
    return 1 + x


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    if key.shape[:-2] != query.shape[:-2] and query.ndim > 2:  # grouped queries share keys
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(repeats, -3) for x in (key, value))
    return noisy((1 + query @ key.transpose(-1, -2)) @ value)


def _mean_pool(dimensions: int) -> Callable[..., Tensor]:
    """A maximum lets the gradient through at one position only; a mean through all that can."""
    pool = getattr(F, f"avg_pool{dimensions}d")
    convolution = getattr(F, f"conv{dimensions}d")

    def replacement(
        x: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        *_: Any,
        **__: Any,
    ) -> Tensor:
        sizes, dilations = _each(kernel_size, dimensions), _each(dilation, dimensions)
        if set(dilations) == {1}:
            mean: Tensor = pool(x, kernel_size, stride or None, padding, ceil_mode)
            return mean
        steps, pads = _each(stride or kernel_size, dimensions), _each(padding, dimensions)
        if ceil_mode:  # a last window may reach over the edge: what is there counts for nothing
            x = F.pad(x, [n for step in reversed(steps) for n in (0, step - 1)])
        channels = x.shape[-dimensions - 1]
        ones = x.new_ones((channels, 1, *sizes))
        summed: Tensor = convolution(x, ones, None, steps, pads, dilations, channels)
        return summed

    return replacement


def _each(value: Any, dimensions: int) -> tuple[int, ...]:
    return (value,) * dimensions if isinstance(value, int) else tuple(value)


def _with_indices(
    func: Callable[..., Any], pool: Callable[..., Tensor]
) -> Callable[..., tuple[Tensor, Tensor]]:
    """The mean, and where the maximum is, for an unpooling."""
    return lambda *args, **options: (pool(*args, **options), func(*args, **options)[1])


def _adaptive_mean_pool(pool: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, output_size, *_, **__: pool(x, output_size)


def _reduced(func: Callable[..., Any]) -> Callable[..., Any]:
    """``max``, ``topk``, ``sort`` and the like: every value comes from all that compete."""

    def replacement(x: Tensor, *args: Any, **options: Any) -> Any:
        if args and isinstance(args[0], Tensor):
            return x + args[0]
        found = func(x, *args, **options)
        values = found if isinstance(found, Tensor) else found[0]
        given = args[1:] if func in _COUNTED else args
        dims = options.get("dim", given[0] if given else None)
        if dims is None:
            dims = tuple(range(x.ndim)) if isinstance(found, Tensor) else -1
        mean = x.mean(dims, keepdim=True)
        mean = (mean if values.ndim == x.ndim else mean.squeeze(dims)).expand(values.shape)
        return mean if isinstance(found, Tensor) else type(found)((mean, *found[1:]))

    return replacement


# Their first argument is a number.
_COUNTED = (torch.topk, Tensor.topk, torch.kthvalue, Tensor.kthvalue)


def _linear_maps() -> list[Callable[..., Any]]:
    convolutions = ("conv1d", "conv2d", "conv3d")
    transposed = tuple(f"conv_transpose{d}d" for d in (1, 2, 3))
    return [F.linear, F.bilinear, *(getattr(F, name) for name in (*convolutions, *transposed))]


_PASS = (
    *("relu", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish"),
    *("hardswish", "hardtanh", "softsign", "tanhshrink", "tanh", "logsigmoid"),
    *("hardshrink", "softshrink", "floor", "ceil", "trunc", "fix"),
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "threshold"),
    *("feature_alpha_dropout", "batch_norm", "layer_norm", "group_norm", "instance_norm"),
    *("rms_norm", "local_response_norm", "normalize", "clamp", "clamp_min", "clamp_max", "clip"),
    *("abs", "sqrt", "rsqrt", "log", "log1p", "square", "sign", "round", "masked_fill"),
)
# Not zero at zero, either, but no gates by themselves: open factors.
_POSITIVE = ("softplus", "exp")
_GATES = ("sigmoid", "hardsigmoid", "softmax", "log_softmax", "reciprocal")
_COMPARISONS = ("gt", "lt", "ge", "le", "eq", "ne", "__gt__", "__lt__", "__ge__", "__le__")
_QUOTIENTS = ("div", "divide", "true_divide", "__truediv__", "__rtruediv__", "__itruediv__")
_SUMS = ("add", "sub", "__add__", "__radd__", "__sub__", "__rsub__", "__iadd__", "__isub__")
_FACTORS = ("mul", "multiply", "__mul__", "__rmul__", "matmul", "mm", "bmm", "__matmul__", "einsum")
_DIFFERENCES = ("sub", "subtract", "__sub__", "__rsub__")
_JOINS = ("cat", "concat", "concatenate", "stack", "hstack", "vstack")
_CREATIONS = (
    *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"),
    *("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"),
)
_WRITES = (
    "copy",
    "index_copy",
    "index_put",
    "scatter",
    "scatter_add",
    "index_add",
    "masked_scatter",
)
_MAXIMA = ("max", "min", "amax", "amin", "topk", "sort", "kthvalue", "median", "aminmax")


def _replacements() -> dict[Any, Callable[..., Any]]:
    table: dict[Any, Callable[..., Any]] = {
        **dict.fromkeys(functions(*_PASS), _first),
        **dict.fromkeys(functions(*_POSITIVE), _positive),
        **dict.fromkeys(functions(*_GATES), _gate),
        **dict.fromkeys(functions(*_COMPARISONS), lambda x, *_, **__: torch.ones_like(x).bool()),
        **{function: _reduced(function) for function in functions(*_MAXIMA)},
        F.scaled_dot_product_attention: _attention,
    }
    for d in (1, 2, 3):
        table |= dict.fromkeys(functions(f"max_pool{d}d", f"_max_pool{d}d"), _mean_pool(d))
        for function in functions(f"max_pool{d}d_with_indices"):
            table[function] = _with_indices(function, _mean_pool(d))
        adaptive = _adaptive_mean_pool(getattr(F, f"adaptive_avg_pool{d}d"))
        table[getattr(F, f"adaptive_max_pool{d}d")] = adaptive
    return table | dict.fromkeys(functions("maximum", "minimum", "fmax", "fmin"), torch.add)


# Where normalisations have their scales; their shifts come behind them.
_NORMS: dict[Any, int] = {
    F.batch_norm: 3,
    torch.batch_norm: 1,
    F.instance_norm: 3,
    torch.instance_norm: 1,
    **dict.fromkeys(functions("layer_norm", "group_norm", "rms_norm"), 2),
}


# What prepares a weight: standardised, what is kept of it stays kept. By hand, equal entries less
# their mean would be nothing, and divided by their norm would not depend on what they are.
_OF_WEIGHTS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(_NORMS, _first),
    **dict.fromkeys(functions("normalize", *_QUOTIENTS), _first),
    **dict.fromkeys(functions("rsqrt", "reciprocal", "__rtruediv__"), _ones),
    **dict.fromkeys(functions(*_DIFFERENCES), torch.add),
}

_OPEN = 2.0  # what stands for the number in an open factor


class ConnectionMode(TorchFunctionMode):
    """Runs each operation as its replacement, and every linear map through ``noisy``.

    Args:
        scored: the parameters that are masked, by name; all others are constants.

    Attributes:
        inputs: what has entered the network.
    """

    replacements = _replacements()
    linear_maps = frozenset(_linear_maps())
    sums = frozenset(functions(*_SUMS))
    quotients = frozenset(functions(*_QUOTIENTS))
    joins = frozenset(functions(*_JOINS))
    products = linear_maps | frozenset(functions("matmul", "mm", "bmm", "mv", "__matmul__"))
    opened = frozenset({F.multi_head_attention_forward})
    creations = frozenset(functions(*_CREATIONS))
    choices = frozenset(functions("where"))
    factors = frozenset(functions(*_FACTORS))
    positive = frozenset(functions(*_POSITIVE))
    differences = frozenset(functions(*_DIFFERENCES))
    writes = frozenset({Tensor.__setitem__, *(getattr(Tensor, f"{name}_") for name in _WRITES)})

    def __init__(self, scored: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._open: dict[int, Tensor] = {}  # a number was added to them
        self._names = {id(tensor): name for name, tensor in scored.items()}
        self._from_input: dict[int, Tensor] = {}  # held, so that ids stay
        self._scored = {id(tensor): tensor for tensor in scored.values()}
        self.inputs: list[Tensor] = []

    def enter(self, x: Tensor) -> Tensor:
        """An input begins here: values, or the kept rows of a table that is scored."""
        x = x if x.requires_grad else noisy(x).requires_grad_()
        self.inputs.append(x)
        entered: Tensor = self._mark(x)
        return entered

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        given = list(tensors_in((args, options)))
        entered = [x for x in given if id(x) in self._from_input]
        if func in self.creations or not entered:
            if func in _OF_WEIGHTS and given and id(given[0]) in self._scored:
                func = _OF_WEIGHTS[func]
            return self._of_parameters(func, func(*args, **options), given)
        if self._is_open(func, args, entered):
            return self._opened(self._come_through(func, args, options, given))
        return self._come_through(func, args, options, given)

    def _come_through(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        options: dict[str, Any],
        given: list[Tensor],
    ) -> Any:
        """The replacement of a call that something from the input has entered."""
        if func in self.opened:
            with self:
                return opened(func)(*args, **options)
        if func in RECURRENT and (found := RECURRENT[func](self._from, *args)) is not None:
            return self._mark(found)
        if func in _NORMS:
            return self._mark(self._scaled(func, args, options))
        if func in self.choices and len(args) > 1:  # where: both may come through
            return self._mark(sum(self._from(x) for x in args[1:]))
        if func in self.quotients and len(args) > 1:
            above, below = args[::-1] if func is Tensor.__rtruediv__ else args[:2]
            if id(below) in self._from_input:  # a gate, that cancels in no h / (1 + |h|)
                return self._mark(above * (1 + below))
        if func in self.sums:
            args = tuple(self._from(x) for x in args)
            both = sum(id(x) in self._from_input for x in args) > 1
            if both and func in self.differences:  # a mean that is taken off, and a mean of that
                return self._mark(noisy(func(*args, **options)))
        elif func in self.joins:
            args = (type(args[0])(self._from(x) for x in args[0]), *args[1:])
        elif func in self.linear_maps:
            args, options = self._without_bias(func, args, options)
            name = self._names.get(id(given[1])) if len(given) > 1 else None
            return self._mark(self.linear(name, func, args, options))
        if self._is_map(func, given):
            args = tuple(noisy(x) if id(x) in self._from_input else x for x in args)
            return self._mark(noisy(func(*args, **options)))
        if func in self.factors and sum(id(x) in self._from_input for x in given) > 1:
            return self._mark(self._product(func, args, options))
        result = self.replacements.get(func, func)(*args, **options)
        if func in self.writes:  # into a tensor, which a view may have been taken of
            self._mark([args[0], args[0]._base])
        return self._mark(result)

    def linear(
        self, name: str | None, func: Callable[..., Any], args: Any, options: dict[str, Any]
    ) -> Tensor:
        """A linear map; ``name`` is the layer whose whole weight it takes, if it takes one."""
        if args and func is not F.bilinear:
            weight = args[1] if len(args) > 1 else options["weight"]
            args = (uneven(args[0], weight), *args[1:])
        return noisy(func(*args, **options))

    def _is_open(self, func: Callable[..., Any], args: Any, entered: list[Tensor]) -> bool:
        """Whether a result is not zero where nothing comes through: 1 + g, what is made of it."""
        opened = [id(x) in self._open for x in entered]
        if func in self.sums:
            return any(opened) or any(isinstance(x, int | float) and x != 0 for x in args)
        if func in self.linear_maps or (func in self.products and len(entered) == 1):
            return False  # it adds a bias to what comes out
        if func in self.factors and any(is_zero(x) for x in args):  # a state that begins at zero
            return False
        return func in self.positive or all(opened)

    def _opened(self, result: Any) -> Any:
        self._open.update({id(tensor): tensor for tensor in tensors_in(result)})
        return result

    def _product(
        self, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
    ) -> Tensor:
        """Of factors that are there, and of open ones, which are wherever the others are."""

        def each(x: Any, change: Callable[[Tensor], Tensor]) -> Any:
            if isinstance(x, list | tuple):
                return type(x)(each(part, change) for part in x)
            return change(x) if isinstance(x, Tensor) else x

        # Not 1 + x: of ``1 - sigmoid``, that would take away what the gate has.
        open_ = each(args, lambda x: x + _OPEN if id(x) in self._open else x)
        result: Tensor = func(*open_, **options)
        if all(id(x) in self._open for x in tensors_in(args) if id(x) in self._from_input):
            closed = each(args, lambda x: torch.full_like(x, _OPEN) if id(x) in self._open else x)
            result = result - func(*closed, **options)  # what does not come from the input
        return result

    def _is_map(self, func: Callable[..., Any], given: list[Tensor]) -> bool:
        """Whether a matrix product is by a weight."""
        return func in self.products and any(id(x) in self._scored for x in given)

    def _scaled(
        self, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        """A normalisation passes; where its scale or shift is scored, channel by channel."""
        x, place = args[0], _NORMS[func]
        channels = [] if func.__name__ in ("layer_norm", "rms_norm") else [1] * (x.ndim - 2)
        for at, name, apply in ((place, "weight", torch.mul), (place + 1, "bias", torch.add)):
            factor = options.get(name, args[at] if len(args) > at else None)
            if factor is not None and id(factor) in self._scored:
                x = apply(x, factor.view(*factor.shape, *channels))
        return x

    def _of_parameters(self, func: Callable[..., Any], result: Any, given: list[Tensor]) -> Any:
        """A part of a scored weight, or a product of several, is scored; one with constants not."""
        scored = [id(x) in self._scored for x in given]
        if any(scored) and (all(scored[:2]) or func not in self.products):
            self._scored.update({id(tensor): tensor for tensor in tensors_in(result)})
        return result

    def _mark(self, result: Any) -> Any:
        for tensor in tensors_in(result):
            self._from_input[id(tensor)] = tensor
        return result

    def _from(self, x: Any) -> Any:
        """A term of a sum, or zeros in its place if it does not come from the input."""
        if isinstance(x, Tensor):
            known = id(x) in self._from_input or id(x) in self._scored
            return x if known else torch.zeros_like(x)
        return 0 if isinstance(x, int | float) else x

    def _without_bias(
        self, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        at = 3 if func is F.bilinear else 2
        args = (*args[:at], *(self._from(bias) for bias in args[at : at + 1]), *args[at + 1 :])
        if "bias" in options:
            options = {**options, "bias": self._from(options["bias"])}
        return args, options
