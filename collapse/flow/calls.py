"""What a call of an operation means for its units: their axes, layouts, constants, labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from collapse.devices import to_float64
from collapse.flow.laws import LINEAR, POOLING, RESIZING

Arguments = tuple[Any, ...]


def _positions(name: str) -> int:
    """How many dimensions of positions a convolution has; 0 for a dense map."""
    return int(name[-2]) if name.startswith("conv") else 0


def axis_read(name: str, x: Tensor, slot: int | str | None) -> int | None:
    """The dimension whose entries an operation takes as units; None: any, it is elementwise."""
    if name in LINEAR and slot in LINEAR[name].input:
        return max(0, x.ndim - 1 - _positions(name))
    if name == "batch_norm" or name in RESIZING:
        return min(1, x.ndim - 1)
    if name in POOLING:
        return max(0, x.ndim - 1 - POOLING[name])
    return None


def axis_written(name: str, result: Tensor) -> int:
    """The dimension of the units that a linear map or a BatchNorm makes."""
    if name == "batch_norm":
        return min(1, result.ndim - 1)
    return max(0, result.ndim - 1 - _positions(name))


def weight_in(name: str, args: Arguments, options: Mapping[str, Any]) -> Tensor | None:
    """The weight of a call of a linear map, if its entries are one for each pair of units."""
    if name not in LINEAR:
        return None
    places = LINEAR[name]
    weight = args[places.weight[0]] if len(args) > places.weight[0] else None
    weight = options.get(places.weight[1]) if weight is None else weight
    if not isinstance(weight, Tensor) or weight.ndim != 2 + _positions(name):
        return None
    if name == "addmm" and ((args[:1] and args[0].ndim != 1) or {"alpha", "beta"} & set(options)):
        return None
    return weight


def layout(name: str, args: Arguments, options: Mapping[str, Any]) -> dict[str, Any]:
    """How a linear map's weight is laid out, as ``unit_sums`` takes it."""
    # Position 6 in all of them: (…, dilation, groups), (…, output_padding, groups, dilation).
    groups = options.get("groups", args[6] if len(args) > 6 else 1)
    return {"groups": groups, "transposed": LINEAR[name].transposed}


def functional_batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Arguments:
    """The arguments of ``torch.batch_norm``, a builtin, in the order of ``F.batch_norm``."""
    return input, running_mean, running_var, weight, bias, training, momentum, eps


def norm_of(args: Arguments, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the law of BatchNorm needs: statistics of this batch, or the running ones."""
    bound = inspect.signature(F.batch_norm).bind(*args, **options)
    bound.apply_defaults()
    values = bound.arguments
    x = values["input"].detach()
    dims = [d for d in range(x.ndim) if d != 1]
    if values["training"]:
        variance = to_float64(x).var(dims, unbiased=False).cpu()
        return {"training": True, "epsilon": values["eps"], "variance": variance}
    mean, variance, gamma = values["running_mean"], values["running_var"], values["weight"]
    return {
        "training": False,
        "gamma": 1.0 if gamma is None else to_float64(gamma.detach()).cpu(),
        "mean": to_float64(mean).cpu(),
        "deviation": (to_float64(variance).cpu() + values["eps"]).sqrt(),
    }


# Which arguments are added up or joined: a constant among them is a source of flow.
_TERMS: dict[str, tuple[tuple[int, str], ...]] = {
    **dict.fromkeys(
        ("add", "__add__", "__radd__", "sub", "__sub__", "__rsub__", "subtract", "maximum",
         "minimum", "fmax", "fmin"),
        ((0, "input"), (1, "other")),
    ),
    **dict.fromkeys(("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack"),
                    ((0, "tensors"),)),
    **dict.fromkeys(("masked_fill", "setitem"), ((0, "input"), (2, "value"))),
    "where": ((1, "input"), (2, "other")),
    "clamp_min": ((1, "min"),),
    "fill": ((1, "value"),),
    "index_fill": ((0, "input"), (3, "value")),
    "pad": ((3, "value"),),
    "index_put": ((0, "input"), (2, "values")),
    **dict.fromkeys(("scatter", "scatter_add", "index_add", "index_copy"),
                    ((0, "input"), (3, "src"))),
    **{name: ((places.bias[0], places.bias[1]),) for name, places in LINEAR.items()},
}  # fmt: skip


def added_constants(
    name: str, args: Arguments, options: Mapping[str, Any], constant: Callable[[Any], bool]
) -> bool:
    """Whether a constant that is not zero is among what an operation adds up or joins."""
    found: list[Any] = []
    for position, keyword in _TERMS.get(name, ()):
        value = args[position] if len(args) > position else options.get(keyword)
        found += value if isinstance(value, list | tuple) else [value]
    return any(constant(value) and not _is_zero(value) for value in found)


def _is_zero(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or not bool(value.detach().any())
    return not isinstance(value, int | float) or value == 0


def relabelled(run: Callable[[Tensor], Any], x: Tensor, axis: int) -> tuple[int, Tensor] | None:
    """Where units go that an operation only moves.

    The operation is run on labels in place of values: each entry is its unit's number.

    Args:
        axis: the dimension of the units of ``x``.

    Returns:
        The dimension of the result along which alone the labels differ, and the label of each of
        its entries; None where units are spread over several.
    """
    numbers = torch.arange(x.shape[axis], dtype=x.dtype, device=x.device)
    shape = [-1 if d == axis else 1 for d in range(x.ndim)]
    with torch.no_grad():
        # In the layout of x: a view may not be possible in another.
        moved = run(torch.empty_like(x).copy_(numbers.reshape(shape).expand(x.shape)))
    for candidate in reversed(range(moved.ndim)):
        lines = moved.movedim(candidate, 0).reshape(moved.shape[candidate], -1)
        if lines.shape[1] and bool((lines == lines[:, :1]).all()):
            return candidate, lines[:, 0].long().cpu()
    return None
