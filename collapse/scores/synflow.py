"""SynFlow (Tanaka et al. 2020)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from collapse.errors import RequestError
from collapse.models import Masks, all_finite, call, compute_dtype, stand_ins
from collapse.scores import rescaling
from collapse.scores.fast.live_blocks import Workspace
from collapse.scores.gradients import derivatives
from collapse.scores.inputs import ScoreInputs, Scores, check_scores, dtype_name


def synflow(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """SynFlow, ``θ ⊙ ∂R/∂θ`` with ``R = 1ᵀ f(1; |θ|)`` (Tanaka et al. 2020, equation 2).

    ``f`` runs on an input of ones, on the absolute values of the parameters only. Biases that are
    not scored themselves and running means are out of ``R``: only then is it multilinear in the
    layers, so that scores are conserved and Theorem 3 holds. Computed in float32, in float64 where
    that is asked for or ``R`` leaves float32's range, and past that rescaled at the network's
    bottlenecks.

    Raises:
        RequestError: ``R`` is in no precision finite (and the model cannot be traced to rescale).
    """
    if not inputs.batches:
        raise RequestError("synflow needs the input's shape: expected at least one batch, got none")
    first = inputs.batches[0][0]
    if not first.is_floating_point():
        raise RequestError(f"synflow needs floating-point inputs, got {first.dtype}")
    problem = ""
    for dtype, rescale in _precisions(model, first.device, inputs.wide):
        network = model
        exponents: list[int] = []
        if rescale:
            try:
                network = rescaling.rescaled(model, exponents)
            except RequestError as error:
                problem = f" ({error})"
                break
        workspace = inputs.workspace
        tensors = _synflow_state(model, masks, dtype, workspace)
        leaves = workspace.leaves({name: tensors[name] for name in masks})
        tensors.update({name: leaf.stand_in for name, leaf in leaves.items()})
        if rescale:  # a traced copy has only what the forward uses
            used = {name for name, _ in (*network.named_parameters(), *network.named_buffers())}
            tensors = {name: tensor for name, tensor in tensors.items() if name in used}
        ones = torch.ones((1, *first.shape[1:]), dtype=dtype, device=first.device)
        try:
            with workspace.catching(leaves):
                R = call(network, tensors, ones, inputs.output).sum()
        except RequestError:
            if inputs.wide and _precisions(model, first.device, False)[0][0] != dtype:
                # A forward that insists on float32 (`x.float()`).
                return synflow(model, masks, replace(inputs, wide=False))
            raise
        gradients = derivatives(R, [leaf.weight for leaf in leaves.values()])
        total = float(R.detach())
        scores = Scores(
            {
                name: leaf.scores(gradient)
                for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
            },
            precision=dtype_name(dtype) + " rescaled" * rescale,
            total=total,
            exponent=sum(exponents),
        )
        if rescale:
            return scores
        if in_range(total, dtype) and all(all_finite(tensor) for tensor in scores.values()):
            scores.finite = True
            return scores
        del tensors, leaves, gradients, R
    check_scores(scores, "synflow", problem)
    return scores


def positive(model: nn.Module, masks: Masks, dtype: torch.dtype) -> dict[str, Tensor]:
    """SynFlow's state: |θ| with masks applied; unscored biases and all running means at zero."""

    def parameter(name: str, value: Tensor) -> Tensor:
        if name in masks:
            return value.abs().mul_(masks[name])
        return torch.zeros_like(value) if name.rpartition(".")[2] == "bias" else value.abs()

    tensors = stand_ins(model, dtype=dtype, parameter=parameter)
    for name, buffer in model.named_buffers():
        if name.rpartition(".")[2] == "running_mean":
            tensors[name] = torch.zeros_like(buffer, dtype=dtype)
    return tensors


def _synflow_state(
    model: nn.Module, masks: Masks, dtype: torch.dtype, workspace: Workspace
) -> dict[str, Tensor]:
    """``positive``, from the last iteration if there was one: only what was pruned since is new."""
    kept = workspace.state(dtype, masks, lambda whole: positive(model, whole, dtype))
    buffers = {name for name, _ in model.named_buffers()}  # which a forward may change
    return {name: t.clone() if name in buffers else t for name, t in kept.items()}


def _precisions(
    model: nn.Module, device: torch.device, wide: bool
) -> list[tuple[torch.dtype, bool]]:
    """(dtype, rescale) in the order in which SynFlow tries them. MPS has no float64.

    Args:
        wide: leave out float32.
    """
    if device.type == "mps":
        return [(torch.float32, False), (torch.float32, True)]
    double = [(torch.float64, False), (torch.float64, True)]
    if wide or compute_dtype(model) == torch.float64:
        return double
    return [(torch.float32, False), *double]


def in_range(R: float, dtype: torch.dtype) -> bool:
    """Whether R is far enough from both ends of the range for its parts to be exact as well.

    An ``R`` near underflow has parts that are zero by rounding, which would look dead; an ``R``
    of zero is checked again in the next precision for the same reason.
    """
    low, high = (1e-20, 1e36) if dtype == torch.float32 else (1e-200, 1e300)
    return low < R < high
