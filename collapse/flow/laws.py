"""Which law an operation obeys, and the flow that it creates by that law (DESIGN section 4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from collapse.flow.recorder import LINEAR, Operation, Use

# Degree-one homogeneous in what they carry: f(a x) = a f(x) for a > 0 (DESIGN 4.2, 4.3).
UNITWISE = frozenset({
    *("relu", "leaky_relu", "prelu", "dropout", "dropout1d", "dropout2d", "dropout3d"),
    *("feature_dropout", "contiguous", "clone", "to", "float", "double", "half", "__neg__", "neg"),
    *("interpolate", "upsample", "__pos__", "type", "type_as", "rrelu"),
    *(f"{prefix}{kind}_pool{d}d" for prefix in ("", "_", "adaptive_", "_adaptive_")
      for kind in ("max", "avg") for d in (1, 2, 3)),
})  # fmt: skip


FOLDS = frozenset({"flatten", "reshape", "view"})


_REARRANGES = frozenset(
    {
        *("permute", "transpose", "squeeze", "unsqueeze", "expand", "expand_as", "cat", "concat"),
        *("concatenate", "stack", "chunk", "split", "split_with_sizes", "__getitem__", "unbind"),
        *(
            "movedim",
            "swapaxes",
            "roll",
            "narrow",
            "select",
            "repeat",
            "repeat_interleave",
            "t",
            "T",
        ),
        *(
            "pixel_shuffle",
            "pixel_unshuffle",
            "channel_shuffle",
            "mean",
            "sum",
            "unflatten",
            "tile",
        ),
        *("__get__", "index_select", "masked_fill", "broadcast_to"),
    }
)


_SUMS = frozenset({"add", "__add__", "__radd__", "sub", "__sub__", "__rsub__"})


_PRODUCTS = frozenset(
    {
        *("mul", "__mul__", "__rmul__", "multiply", "div", "__truediv__", "true_divide"),
    }
)


def law(operation: Operation) -> str:
    """Which law an operation obeys.

    Returns:
        ``linear``, ``batchnorm``, ``homogeneous``, ``scale`` (a product with a parameter) or
        ``outside``.
    """
    name, data = operation.function, [use for use in operation.uses if use.parameter is None]
    if name in LINEAR:
        return "linear"
    if name == "batch_norm":  # without γ and β there is no saliency to write its law in
        learned = operation.use(3, "weight") is not None and operation.use(4, "bias") is not None
        return "batchnorm" if learned else "outside"
    if name in UNITWISE | FOLDS | _REARRANGES:
        return "homogeneous"
    if name in _SUMS and not operation.constants.get("constants"):
        return "homogeneous"
    if name in _PRODUCTS and len(data) == 1:
        divides = name in ("div", "__truediv__", "true_divide")
        if len(operation.uses) == 1 or not divides:
            return "scale" if len(operation.uses) > 1 else "homogeneous"
    return "outside"


def carriers(operation: Operation) -> list[Use]:
    """The uses along which flow runs through an operation from the input towards the output."""
    if law(operation) in ("linear", "batchnorm"):
        return [use for use in operation.uses if use.slot in (0, "input")]
    return [use for use in operation.uses if use.parameter is None]


def sources(operation: Operation) -> list[Use]:
    """Parameters that add flow: biases, and parameters that are summed or concatenated."""
    kind = law(operation)
    if kind == "linear":
        return [use for use in operation.uses if use.slot in (2, "bias")]
    if kind == "homogeneous" and operation.function != "prelu":
        return [use for use in operation.uses if use.parameter is not None]
    return []


def weight_of(operation: Operation) -> Use | None:
    """The weight of a linear map, if it is a parameter."""
    if law(operation) != "linear":
        return None
    use = operation.use(1, "weight")
    return use if use is not None and use.parameter is not None else None


def layout_of(operation: Operation) -> dict[str, Any]:
    """How a linear map's weight is laid out, as ``unit_sums`` takes it; empty for others."""
    constants = operation.constants
    return {key: constants[key] for key in ("groups", "transposed") if key in constants}


def incoming(operation: Operation) -> Tensor | None:
    """Saliency into each unit of a linear map's result, the bias included."""
    weight = weight_of(operation)
    if weight is None or weight.units is None:
        return None
    total = weight.units
    for bias in sources(operation):
        total = total if bias.units is None else total + bias.units
    return total


def affine(operation: Operation) -> tuple[Tensor, Tensor, Tensor]:
    """(S(γ), S(β), S(b′)) of BatchNorm by channel; b′ = −γ μ / σ in eval mode, else zero."""
    gamma, beta = operation.use(3, "weight"), operation.use(4, "bias")
    flow = operation.out_units
    assert flow is not None
    nothing = torch.zeros_like(flow)
    s_gamma = nothing if gamma is None or gamma.units is None else gamma.units
    s_beta = nothing if beta is None or beta.units is None else beta.units
    if operation.constants["training"] or beta is None or beta.gradient is None:
        return s_gamma, s_beta, nothing
    # ∂R/∂b′ = Σ ∂R/∂y = ∂R/∂β.
    constants = operation.constants
    fixed = -constants["gamma"] * constants["mean"] / constants["deviation"] * beta.gradient
    return s_gamma, s_beta, fixed


def created(operation: Operation) -> float:
    """The flow that an operation adds between what it carries in and what it gives out.

    By its law where it has one, measured where it has none.
    """
    kind = law(operation)
    if kind == "batchnorm" and operation.out_units is not None:
        s_gamma, s_beta, fixed = affine(operation)
        if operation.constants["training"]:
            return float((s_gamma + s_beta - through_train(operation, s_gamma)).sum())
        return float((s_beta + fixed).sum())
    if kind in ("outside", "batchnorm"):
        return operation.out_total - sum(use.total for use in carriers(operation))
    return sum(use.total for use in sources(operation))


def through_train(operation: Operation, s_gamma: Tensor) -> Tensor:
    """Train-mode BatchNorm: ``F(z) = ε / (v + ε) · S(γ)`` by channel (DESIGN 4.8)."""
    epsilon, variance = operation.constants["epsilon"], operation.constants["variance"]
    share: Tensor = epsilon / (variance + epsilon)
    return share * s_gamma


def place(operation: Operation) -> str:
    """What a reader calls an operation: its weight's name, or its module and function."""
    weight = weight_of(operation)
    if weight is not None and weight.parameter is not None:
        return weight.parameter
    return f"{operation.place or 'network'}:{operation.function}"


def fold(values: Tensor | None, units: int) -> Tensor | None:
    """Sum the positions of each unit where a flattening has made one channel of each."""
    if values is None or len(values) % units:
        return None
    return values.reshape(units, -1).sum(1)
