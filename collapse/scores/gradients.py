"""Derivatives of a loss with respect to masked parameters: the gradient, and Hessian products."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from collapse.errors import RequestError
from collapse.models import (
    ContiguousGradients,
    Inputs,
    Masks,
    backward_errors,
    call,
    cast,
    compute_dtype,
    first_tensor,
    kept_parameters,
    samples,
    stand_ins,
)
from collapse.scores import fast
from collapse.scores.inputs import ScoreInputs, Scores, dtype_name, scoring_seed


def loss_gradient(
    model: nn.Module,
    masks: Masks,
    inputs: ScoreInputs,
    temperature: float = 1.0,
    along: Mapping[str, Tensor] | None = None,
    at: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradient of the mean loss over all batches, or its Hessian times a vector.

    Args:
        temperature: divides the logits.
        along: the vector, by parameter name; None for the gradient itself.
        at: values to differentiate at, by parameter name; the model's own for those that it lacks.

    Returns:
        The masked parameters, and the gradient (or product) with respect to each. Pruned weights
        are no variables of the network: their part is zero.
    """
    dtype = inputs.dtype or compute_dtype(model)
    batches = _weighted(model, inputs, dtype)
    # Dropout draws the same units in each pass, so that all passes see one function.
    torch.manual_seed(scoring_seed(inputs))
    tensors = stand_ins(model, dtype=dtype, parameter=kept_parameters(masks))
    for name, value in (at or {}).items():
        tensors[name] = value.detach().to(dtype) * masks[name]
    leaves = {name: tensors[name].requires_grad_() for name in masks}
    totals = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    for x, y, share in batches:
        device = first_tensor(x).device
        twice = contextlib.nullcontext() if along is None else fast.twice(device)
        with twice, fast.in_precision(dtype, device):
            value = share * _loss(model, tensors, x, y, inputs, temperature)
        local = gradients(value, leaves) if along is None else _product(value, leaves, along)
        for name, part in local.items():
            totals[name] += part
    return leaves, {name: total.mul_(masks[name]) for name, total in totals.items()}


def _weighted(
    model: nn.Module, inputs: ScoreInputs, dtype: torch.dtype
) -> list[tuple[Inputs, Any, float]]:
    """Batches with their share of all samples, so that batch sizes do not weigh the mean."""
    total = sum(samples(x) for x, _ in inputs.batches)
    if total == 0:
        raise RequestError("this pruner needs data: expected at least one sample, got none")
    for x, y in inputs.batches:
        if isinstance(y, Tensor) and y.ndim and samples(x) != len(y):
            raise RequestError(f"expected a label for each of {samples(x)} samples, got {len(y)}")
    return [(cast(x, dtype), y, samples(x) / total) for x, y in fast.parts(model, inputs, dtype)]


def _loss(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    x: Inputs,
    y: Any,
    inputs: ScoreInputs,
    temperature: float = 1.0,
) -> Tensor:
    with ContiguousGradients() if samples(x) == 1 else contextlib.nullcontext():
        output = call(model, tensors, x, inputs.output)
    return inputs.loss_of(output, y, temperature)


def gradients(
    value: Tensor, leaves: Mapping[str, Tensor], create_graph: bool = False
) -> dict[str, Tensor]:
    """``∂value/∂leaf`` by name; zero for a leaf that the value does not depend on."""
    parts = derivatives(value, list(leaves.values()), create_graph)
    return {
        name: torch.zeros_like(leaf) if part is None else part
        for (name, leaf), part in zip(leaves.items(), parts, strict=True)
    }


def _product(
    value: Tensor, leaves: Mapping[str, Tensor], along: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The Hessian of ``value`` times ``along``: how the gradient changes along it."""
    with fast.unread(list(leaves.values())):
        first = gradients(value, leaves, create_graph=True)
    # A gradient that depends on no leaf has no derivatives.
    depends = {name: part for name, part in first.items() if part.requires_grad}
    if not depends:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    with _once(), backward_errors():
        parts = torch.autograd.grad(
            list(depends.values()),
            list(leaves.values()),
            [along[name].to(part.dtype) for name, part in depends.items()],
            materialize_grads=True,
        )
    return dict(zip(leaves, parts, strict=True))


def times(
    theta: Mapping[str, Tensor], gradient: Mapping[str, Tensor], total: float | None = None
) -> Scores:
    """``θ ⊙ g``, layer by layer."""
    # Not in place: two weights that are added are given one and the same gradient.
    scores = {name: gradient[name] * leaf.detach() for name, leaf in theta.items()}
    precision = dtype_name(next(iter(scores.values())).dtype)
    return Scores(scores, precision=precision, total=total)


def derivatives(
    value: Tensor, leaves: list[Tensor], create_graph: bool = False
) -> Sequence[Tensor | None]:
    """``∂value/∂leaf``; None for a leaf that the output does not depend on."""
    if not value.requires_grad:
        return [None] * len(leaves)
    with _once(), backward_errors():
        return torch.autograd.grad(value, leaves, create_graph=create_graph, allow_unused=True)


@contextlib.contextmanager
def _once() -> Iterator[None]:
    """Refuse modules that run again while they are differentiated (checkpointing).

    By then the model is the user's own again, with weights that are neither masked nor ``|θ|``.
    """

    def refuse(module: nn.Module, _: object) -> None:
        raise RequestError(
            f"a {type(module).__name__} runs again in the backward pass: expected a model without "
            "gradient checkpointing (switch it off for scoring)"
        )

    hook = register_module_forward_pre_hook(refuse)
    try:
        yield
    finally:
        hook.remove()
