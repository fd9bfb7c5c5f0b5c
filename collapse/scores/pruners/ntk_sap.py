"""NTK-SAP."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from collapse.models import (
    Inputs,
    Masks,
    call,
    compute_dtype,
    entering,
    floats_of,
    stand_ins,
    taken,
)
from collapse.scores.gradients import gradients
from collapse.scores.inputs import ScoreInputs, Scores, dtype_name
from collapse.scores.registry import pruner
from collapse.scores.warm_up import statistics
from collapse.seeding import generator

SAMPLES, EPSILON = 32, 0.01


@pruner(iterations=100, data="shape", stateless=True)
def ntk_sap(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """NTK-SAP, ``|∂/∂c E ‖f(x; θ⊙c) − f(x; (θ+Δθ)⊙c)‖²|`` (Wang et al. 2023).

    The finite difference estimates the trace of the neural tangent kernel. ``x`` is standard
    normal, ``θ`` drawn anew (Kaiming normal) in every iteration, ``Δθ`` normal with a deviation of
    0.01: neither data nor the given weights have a say. BatchNorm has the statistics of ``x``. The
    authors draw 256 samples where we draw 32; biases and normalisations are the model's here.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> row = (torch.zeros(1, 2), None)
        >>> masks = {"weight": torch.ones(1, 2).bool()}
        >>> score(net, "ntk_sap", masks, ScoreInputs([row]))["weight"].shape
        torch.Size([1, 2])
    """
    dtype = inputs.dtype or compute_dtype(model)
    draw = generator(inputs.seed, "ntk-sap", inputs.iteration)
    x, state = _noise(inputs, dtype, draw), stand_ins(model, dtype=dtype)
    theta = {name: _drawn(mask, draw).to(state[name]) for name, mask in masks.items()}
    moved = {n: t + EPSILON * torch.randn(t.shape, generator=draw).to(t) for n, t in theta.items()}
    c = {name: mask.to(dtype).requires_grad_() for name, mask in masks.items()}
    state.update({name: theta[name] * mask for name, mask in masks.items()})
    state.update(statistics(model, state, [x], inputs.output))

    def f(weights: dict[str, Tensor]) -> list[Tensor]:
        kept = {name: weights[name] * c[name] for name in masks}
        return floats_of(call(model, {**state, **kept}, x, inputs.output))

    pairs = zip(f(theta), f(moved), strict=True)
    difference = torch.stack([(one - other).square().sum() for one, other in pairs]).sum()
    found = gradients(difference, c)
    scores = {name: found[name].abs_() * mask for name, mask in masks.items()}
    return Scores(scores, precision=dtype_name(dtype))


def _noise(inputs: ScoreInputs, dtype: torch.dtype, draw: torch.Generator) -> Inputs:
    """Samples of standard normal numbers in the inputs' form; integers are the first sample's."""
    _ = inputs.ones()  # there is a batch
    many: Inputs = taken(inputs.batches[0][0], [0] * SAMPLES)
    drawn: Inputs = entering(
        many, lambda x: torch.randn(x.shape, generator=draw).to(x.device, dtype)
    )
    return drawn


def _drawn(mask: Tensor, draw: torch.Generator) -> Tensor:
    """A weight as it is initialised: normal, of variance 2 / fan-in."""
    fan_in = max(1, mask[0].numel()) if mask.ndim else 1
    deviation: float = (2 / fan_in) ** 0.5
    return torch.randn(mask.shape, generator=draw) * deviation
