"""PX, path exclusion."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from collapse.models import (
    ContiguousGradients,
    Inputs,
    Masks,
    call,
    cast,
    compute_dtype,
    floats_of,
    kept_parameters,
    stand_ins,
    untouched,
    with_floats,
)
from collapse.scores.gates import Gates
from collapse.scores.gradients import gradients, times
from collapse.scores.inputs import ScoreInputs, Scores
from collapse.scores.precision import widening
from collapse.scores.pruners.synflow import positive
from collapse.scores.registry import pruner


@pruner(iterations=100, stateless=True, passes=3)
@widening
def px(model: nn.Module, masks: Masks, inputs: ScoreInputs, network: nn.Module) -> Scores:
    """PX, ``θ² ⊙ ∂R/∂θ²`` with ``R = Σ_x ⟨f(1; θ²), f_x(x²; 1)⟩`` (Iurada et al. 2024).

    ``f_x`` has every kept weight at one and only those ReLUs open that the sample ``x`` opens: it
    sums the data over the paths that they take. ``f(1; θ²)`` weighs paths as SynFlow-L2 does. Each
    layer's scores sum to ``R``. Both are in eval mode; ``--mode`` is that of the samples' forward.
    Labels are not looked at. The authors' code leaves classifiers called ``fc`` as they are in
    both, and runs both with BatchNorm in train mode.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> net.weight.data = torch.tensor([[3.0, -1.0]])
        >>> batch = (torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
        >>> score(net, "px", {"weight": torch.ones(1, 2).bool()}, ScoreInputs([batch]))
        {'weight': tensor([[45.,  5.]])}
    """
    dtype = inputs.dtype or compute_dtype(model)
    state = positive(model, masks, dtype, torch.square)
    theta = {name: state[name].requires_grad_() for name in masks}
    with untouched(network, "eval"), ContiguousGradients():
        weighed = floats_of(call(network, state, inputs.ones(masks), inputs.output))
    R = torch.zeros((), dtype=dtype, device=weighed[0].device)
    for x, _ in inputs.batches:
        passed = _passed(model, masks, cast(x, dtype), inputs, network)
        R = R + sum((w * p).sum() for w, p in zip(weighed, passed, strict=True))
    return times(theta, gradients(R, theta), total=float(R.detach()))


@torch.no_grad()
def _passed(
    model: nn.Module, masks: Masks, x: Inputs, inputs: ScoreInputs, network: nn.Module
) -> list[Tensor]:
    """``Σ_x f_x(x²; 1)`` over the samples of a batch, each output by itself."""
    gates = Gates()
    with gates:
        kept = stand_ins(model, dtype=inputs.dtype, parameter=kept_parameters(masks))
        call(model, kept, x, "all")
    ones = positive(model, masks, inputs.dtype, torch.ones_like)
    with untouched(network, "eval"), gates.imposed():
        found = call(network, ones, with_floats(x, torch.square), inputs.output)
    return [each.sum(0, keepdim=True) for each in floats_of(found)]
