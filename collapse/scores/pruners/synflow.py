"""SynFlow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from collapse.models import ContiguousGradients, Masks, call, is_bias, output_sum, stand_ins
from collapse.scores.gradients import gradients, times
from collapse.scores.inputs import ScoreInputs, Scores
from collapse.scores.precision import widening
from collapse.scores.registry import pruner


@pruner(iterations=100, data="shape", stateless=True, certifies=True)
@widening
def synflow(model: nn.Module, masks: Masks, inputs: ScoreInputs, network: nn.Module) -> Scores:
    """SynFlow, ``θ ⊙ ∂R/∂θ`` with ``R = 1ᵀ f(1; |θ|)`` (Tanaka et al. 2020, equation 2).

    ``f`` runs on an input of ones (ids of tokens give ones where they are looked up), on the
    absolute values of the parameters only; several outputs are summed. Biases that are
    not scored themselves and running means are out of ``R``: only then is it multilinear in the
    layers, so that scores are conserved and Theorem 3 holds.
    """
    return saliency_of_R(model, masks, inputs, network)


def saliency_of_R(  # noqa: N802  # the paper's letter
    model: nn.Module,
    masks: Masks,
    inputs: ScoreInputs,
    network: nn.Module,
    of: Callable[[Tensor], Tensor] = torch.abs,
) -> Scores:
    """``w ⊙ ∂R/∂w`` with ``R = 1ᵀ f(1; w)`` and ``w = of(θ)``."""
    state = positive(model, masks, inputs.dtype, of)
    theta = {name: state[name].requires_grad_() for name in masks}
    with ContiguousGradients():
        R = output_sum(call(network, state, inputs.ones(masks), inputs.output))
    return times(theta, gradients(R, theta), total=float(R.detach()))


def positive(
    model: nn.Module,
    masks: Masks,
    dtype: torch.dtype | None,
    of: Callable[[Tensor], Tensor] = torch.abs,
) -> dict[str, Tensor]:
    """SynFlow's state: |θ| with masks applied; unscored biases and all running means at zero.

    Args:
        of: makes a weight positive, in memory of its own; ``torch.square`` for SynFlow-L2.
    """

    def parameter(name: str, value: Tensor) -> Tensor:
        if name in masks:
            return of(value).mul_(masks[name])
        return torch.zeros_like(value) if is_bias(name) else of(value)

    tensors = stand_ins(model, dtype=dtype, parameter=parameter)
    for name, buffer in model.named_buffers():
        if name.rpartition(".")[2] == "running_mean":
            tensors[name] = torch.zeros_like(buffer, dtype=dtype)
    return tensors
