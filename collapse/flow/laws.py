"""Which law an operation obeys, and the flow that it creates by that law (DESIGN section 4)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from collapse.flow.operations import Operation, Use


def _names(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


class LinearMap(NamedTuple):
    """Where a linear map has its arguments, and whether its weight is ``[in, out, …]``."""

    input: tuple[int, str] = (0, "input")
    weight: tuple[int, str] = (1, "weight")
    bias: tuple[int, str] = (2, "bias")
    transposed: bool = False


LINEAR: dict[str, LinearMap] = {
    "linear": LinearMap(),
    **{f"conv{d}d": LinearMap() for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": LinearMap(transposed=True) for d in (1, 2, 3)},
    **dict.fromkeys(("matmul", "__matmul__", "mm"), LinearMap((0, "input"), (1, "other"),
                                                             (9, ""), True)),
    "addmm": LinearMap((1, "mat1"), (2, "mat2"), (0, "input"), True),
}  # fmt: skip

# Elementwise and degree-one homogeneous in what they carry: f(a x) = a f(x) for a > 0.
ELEMENTWISE = _names(
    "relu leaky_relu prelu rrelu dropout dropout1d dropout2d dropout3d feature_dropout",
    "alpha_dropout contiguous clone to float double half type type_as neg __neg__ __pos__",
    "positive abs __abs__ clamp_min bfloat16",
)

# Channel by channel, over positions: the dimensions behind the channels'.
POOLING = {
    **{f"{prefix}{kind}_pool{d}d": d for prefix in ("", "_", "adaptive_", "_adaptive_")
       for kind in ("max", "avg", "lp") for d in (1, 2, 3)},
    **{f"{prefix}max_pool{d}d_with_indices": d for prefix in ("", "adaptive_") for d in (1, 2, 3)},
}  # fmt: skip

RESIZING = _names("interpolate upsample grid_sample upsample_nearest upsample_bilinear")

UNITWISE = ELEMENTWISE | POOLING.keys() | RESIZING

# Give the entries of one tensor another place, and change none: labels of the units move along.
MOVES = _names(
    "flatten reshape view view_as reshape_as unflatten ravel permute transpose movedim moveaxis",
    "swapaxes swapdims t squeeze unsqueeze expand expand_as broadcast_to repeat tile roll flip",
    "narrow select __getitem__ index_select __get__ repeat_interleave",
)

# Homogeneous in all that they carry together.
_JOINS = _names(
    "cat concat concatenate stack hstack vstack dstack chunk split split_with_sizes tensor_split",
    "unbind pixel_shuffle pixel_unshuffle channel_shuffle mean sum nansum cumsum max amax min amin",
    "topk sort maximum minimum fmax fmin where masked_fill masked_select gather take",
    "take_along_dim setitem scatter scatter_add index_add index_put index_copy index_fill",
    "pad unfold fold diagonal tril triu copy fill zero broadcast_tensors meshgrid rot90",
)

_SUMS = _names("add __add__ __radd__ sub __sub__ __rsub__ subtract")
_QUOTIENTS = _names("div __truediv__ true_divide divide")
_PRODUCTS = _QUOTIENTS | _names("mul __mul__ __rmul__ multiply")
# Products of matrices: homogeneous in one factor as long as no other one carries flow.
_BILINEAR = _names("matmul __matmul__ mm bmm einsum tensordot baddbmm conv1d conv2d conv3d") | {
    *("linear", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "addmm", "bilinear"),
}


_HOMOGENEOUS = UNITWISE | MOVES | _JOINS | _SUMS


def law(operation: Operation) -> str:
    """Which law an operation obeys.

    Returns:
        ``linear``, ``batchnorm``, ``homogeneous``, ``scale`` (a product with something learned)
        or ``outside``.
    """
    name = operation.function
    if operation.unfollowed is not None or operation.constants:
        return "outside"
    if operation.linear is not None:
        return "linear"
    if name == "batch_norm":  # without γ and β there is no saliency to write its law in
        affine = (operation.use(3, "weight"), operation.use(4, "bias"))
        carries = operation.use(0, "input") is not None
        learned = all(use is not None and use.parameter is not None for use in affine)
        return "batchnorm" if learned and carries else "outside"
    if name == "grid_sample" and len(operation.uses) > 1:  # of places that are computed, too
        return "outside"
    if name in _HOMOGENEOUS:
        return "homogeneous"
    data = [use for use in operation.uses if not use.learned]
    if name in _PRODUCTS:
        divides = name in _QUOTIENTS
        if len(operation.uses) == 1 and not (divides and operation.uses[0].slot != 0):
            return "homogeneous"
        if len(data) == 1 and not divides:
            return "scale"
    if name in _BILINEAR and len(operation.uses) == 1:
        return "homogeneous"
    return "outside"


def carriers(operation: Operation) -> list[Use]:
    """The uses along which flow runs through an operation from the input towards the output."""
    kind = law(operation)
    if kind == "linear":
        slots = LINEAR[operation.function].input
    elif kind == "batchnorm":
        slots = (0, "input")
    elif kind == "scale":
        return [use for use in operation.uses if not use.learned]
    else:
        return [use for use in operation.uses if use.parameter is None]
    return [use for use in operation.uses if use.slot in slots]


def sources(operation: Operation) -> list[Use]:
    """Parameters that add flow: biases, and parameters that are summed or concatenated.

    The weight too where a linear map is applied to a constant: its flow begins there.
    """
    kind = law(operation)
    if kind == "linear":
        into = carriers(operation)
        weight = weight_of(operation)
        return [
            use for use in operation.uses if use not in into and (use is not weight or not into)
        ]
    if kind == "homogeneous" and operation.function != "prelu":
        return [use for use in operation.uses if use.parameter is not None]
    return []


def weight_of(operation: Operation) -> Use | None:
    """The weight of a linear map: a parameter, or what was made of parameters alone."""
    if operation.linear is None or operation.constants:
        return None
    return operation.use(*LINEAR[operation.function].weight)


def layout_of(operation: Operation) -> dict[str, Any]:
    """How a linear map's weight is laid out, as ``unit_sums`` takes it; empty for others."""
    return operation.linear or {}


def biases(operation: Operation) -> list[Use]:
    """The bias of a linear map, if it has one."""
    weight = weight_of(operation)
    return [use for use in sources(operation) if use is not weight]


def incoming(operation: Operation) -> Tensor | None:
    """Saliency into each unit of a linear map's result, the bias included."""
    weight = weight_of(operation)
    if weight is None or weight.by_output is None:
        return None
    total = weight.by_output.units
    for bias in biases(operation):
        total = total if bias.by_output is None else total + bias.by_output.units
    return total


def affine(operation: Operation) -> tuple[Tensor, Tensor, Tensor]:
    """(S(γ), S(β), S(b′)) of BatchNorm by channel; b′ = −γ μ / σ in eval mode, else zero."""
    gamma, beta = operation.use(3, "weight"), operation.use(4, "bias")
    out = operation.out
    assert out is not None
    nothing = torch.zeros_like(out.units)
    s_gamma = nothing if gamma is None or gamma.by_output is None else gamma.by_output.units
    s_beta = nothing if beta is None or beta.by_output is None else beta.by_output.units
    if operation.norm["training"] or beta is None or beta.gradient is None:
        return s_gamma, s_beta, nothing
    # ∂R/∂b′ = Σ ∂R/∂y = ∂R/∂β.
    norm = operation.norm
    return s_gamma, s_beta, -norm["gamma"] * norm["mean"] / norm["deviation"] * beta.gradient


def created(operation: Operation) -> float:
    """The flow that an operation adds between what it carries in and what it gives out.

    By its law where it has one, measured where it has none.
    """
    kind = law(operation)
    if kind == "batchnorm" and operation.out is not None:
        s_gamma, s_beta, fixed = affine(operation)
        if operation.norm["training"]:
            return float((s_gamma + s_beta - through_train(operation, s_gamma)).sum())
        return float((s_beta + fixed).sum())
    if kind in ("outside", "batchnorm"):
        return operation.out_total - sum(use.total for use in carriers(operation))
    return sum(use.total for use in sources(operation))


def through_train(operation: Operation, s_gamma: Tensor) -> Tensor:
    """Train-mode BatchNorm: ``F(z) = ε / (v + ε) · S(γ)`` by channel (DESIGN 4.8)."""
    epsilon, variance = operation.norm["epsilon"], operation.norm["variance"]
    share: Tensor = epsilon / (variance + epsilon)
    return share * s_gamma


def place(operation: Operation) -> str:
    """What a reader calls an operation: its weight's name, or its module and function."""
    weight = weight_of(operation)
    if weight is not None and weight.parameter is not None:
        return weight.parameter
    return f"{operation.place or 'network'}:{operation.function}"
