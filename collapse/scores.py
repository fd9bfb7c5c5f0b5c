"""One small function a pruner, and the registry of them.

A score function takes ``(model, masks, inputs)`` and returns one number for each prunable scalar,
as a tensor by parameter name in the parameter's shape; the highest are kept. It never changes the
model. Parameters that ``masks`` names are scored, with their pruned entries at zero.

To add a pruner, write one such function and one line in ``SCORES``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from collapse import rescaling
from collapse.errors import RequestError, first_line, unknown
from collapse.gradients import derivatives, loss_gradient
from collapse.models import (
    Masks,
    all_finite,
    call,
    check_finite,
    compute_dtype,
    import_user,
    kept_parameters,
    stand_ins,
    untouched,
)
from collapse.options import Mode
from collapse.score_types import Batch, Loss, ScoreInputs, Scores, scoring_seed
from collapse.seeding import generator
from collapse.shrinking import Workspace

__all__ = ["SCORES", "Batch", "Loss", "ScoreInputs", "Scores", "score"]

GRASP_TEMPERATURE = 200.0


def random(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """Random pruning: standard normal scores, drawn anew in each iteration."""
    draw = generator(inputs.seed, "random scores", inputs.iteration)
    return Scores(
        {
            name: torch.randn(mask.shape, generator=draw).to(mask.device)
            for name, mask in masks.items()
        }
    )


def magnitude(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """Magnitude pruning, ``|θ|`` (Janowsky 1989; Han et al. 2015)."""
    kept = kept_parameters(masks)
    tensors = stand_ins(model, dtype=compute_dtype(model), parameter=kept)
    return Scores(
        {name: tensors[name].abs() for name in masks}, precision=_name(compute_dtype(model))
    )


def snip(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """SNIP, ``|θ ⊙ ∂L/∂θ|`` (Lee, Ajanthan & Torr 2019, equation 6).

    ``L`` is the mean loss over all samples of all batches.
    """
    leaves, gradients = loss_gradient(model, masks, inputs)
    return Scores(
        {name: gradients[name].mul_(leaf.detach()).abs_() for name, leaf in leaves.items()},
        precision=_name(compute_dtype(model)),
    )


def grasp(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """GraSP, ``θ ⊙ H g`` with ``g = ∂L/∂θ`` (Wang, Zhang & Grosse 2020, equation 8).

    The highest are kept: the paper's own score is ``−θ ⊙ H g`` and prunes the highest. Logits are
    divided by its temperature of 200. Both passes, the gradient's and the Hessian-vector
    product's, see the same batches.
    """
    _, gradient = loss_gradient(model, masks, inputs, GRASP_TEMPERATURE)
    leaves, products = loss_gradient(model, masks, inputs, GRASP_TEMPERATURE, along=gradient)
    return Scores(
        {name: products[name].mul_(leaf.detach()) for name, leaf in leaves.items()},
        precision=_name(compute_dtype(model)),
    )


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
            precision=_name(dtype) + " rescaled" * rescale,
            total=total,
            exponent=sum(exponents),
        )
        if rescale:
            return scores
        if in_range(total, dtype) and all(all_finite(tensor) for tensor in scores.values()):
            scores.finite = True
            return scores
        del tensors, leaves, gradients, R
    _check_scores(scores, "synflow", problem)
    return scores


SCORES: dict[str, Callable[[nn.Module, Masks, ScoreInputs], Scores]] = {
    "random": random,
    "magnitude": magnitude,
    "snip": snip,
    "grasp": grasp,
    "synflow": synflow,
}
# The paper's setting of each: iterations, and the mode in which the model is scored (None: not
# run at all). A pruner that is not listed takes one iteration in eval mode.
PAPER_ITERATIONS = {"synflow": 100}
DATA_FREE = frozenset({"random", "magnitude", "synflow"})  # one input's shape is enough
PAPER_MODE: dict[str, Mode | None] = {
    "random": None,
    "magnitude": None,
    "snip": "train",
    "grasp": "train",
}


def load_pruner(name: str) -> str:
    """A pruner's name in ``SCORES``; ``package.module:function`` is registered under itself.

    Raises:
        RequestError: unknown name, or an import that fails.
    """
    if ":" in name and name not in SCORES:
        function = import_user(name, "pruner")
        if not callable(function):
            raise RequestError(f"pruner '{name}': expected a function (model, masks, inputs)")
        SCORES[name] = function
    if name not in SCORES:
        near = str(unknown("pruner", name, SCORES))
        raise RequestError(f"{near} (or package.module:function)")
    return name


def mode_of(pruner: str, requested: Mode | None) -> Mode | None:
    """The mode that a pruner is scored in: None where it never runs the model.

    SynFlow's ``R`` is defined on the eval-mode network, so a request does not change it.
    """
    default = PAPER_MODE.get(pruner, "eval")
    return default if pruner == "synflow" or default is None else requested or default


def score(model: nn.Module, pruner: str, masks: Masks, inputs: ScoreInputs) -> Scores:
    """Score a model by a registered pruner, purely.

    Args:
        pruner: a name in ``SCORES``.
        masks: boolean, by parameter name; what is scored, and which of it is left.

    Returns:
        Scores in the parameters' shapes; entries already pruned hold whatever the formula gives
        (zero for all but random), and selection never looks at them.

    Raises:
        RequestError: unknown pruner, non-finite weights or scores (the layer is named), a forward
            that fails or whose output is not a tensor.
    """
    if pruner not in SCORES:
        raise unknown("pruner", pruner, SCORES)
    if inputs.iteration == 1:  # the weights are the same in every other one
        check_finite(model)
    mode = mode_of(pruner, inputs.mode) or "eval"
    with untouched(model, mode, scoring_seed(inputs)), torch.enable_grad():
        scores = _call_pruner(pruner, model, masks, inputs)
    if not scores.finite:
        _check_scores(scores, pruner)
        scores.finite = True
    return scores


def _call_pruner(pruner: str, model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """A user's own function may raise anything, and return a plain dict or nonsense."""
    try:
        scores = SCORES[pruner](model, masks, inputs)
    except (RequestError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a user's pruner may raise anything
        if SCORES[pruner].__module__ == __name__:
            raise
        raise RequestError(
            f"pruner '{pruner}' failed: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(scores, Mapping):
        raise RequestError(
            f"pruner '{pruner}' returned {type(scores).__name__}: expected a dict of tensors by "
            "parameter name"
        )
    for name, mask in masks.items():
        shape = getattr(scores.get(name), "shape", None)
        if shape != mask.shape:
            got = "nothing" if shape is None else f"shape {tuple(shape)}"
            raise RequestError(
                f"pruner '{pruner}', layer '{name}': expected scores of shape "
                f"{tuple(mask.shape)}, got {got}"
            )
    return scores if isinstance(scores, Scores) else Scores({n: scores[n] for n in masks})


def _check_scores(scores: Scores, pruner: str, why: str = "") -> None:
    for name, tensor in scores.items():
        if not all_finite(tensor):
            raise RequestError(f"{pruner} score of layer '{name}' is not finite{why}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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
