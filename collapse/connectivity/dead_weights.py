"""Dead weights: kept weights on no input→output path of kept weights.

The network runs once forward and backward with its masks as weights and every operation replaced by
one that only says *connected or not* (``replacements``). A weight is alive when the gradient that
reaches it is not zero, and the network is connected when the gradient that reaches the input is
not. This needs no tracing, so it works on any model whose forward runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from collapse.connectivity.noise import there
from collapse.connectivity.replacements import ConnectionMode
from collapse.masks import check_fit, dense
from collapse.models import (
    Inputs,
    Masks,
    Ones,
    Selector,
    backward_errors,
    call,
    compute_dtype,
    output_sum,
    plain,
    stand_ins,
    untouched,
)

# The number that stands for every kept weight of a tensor.
Size = Callable[[Tensor], float]


def living(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    example: Inputs,
    *,
    output: Selector = None,
) -> Masks:
    """The kept weights that lie on an input→output path of kept weights; the others are dead.

    Args:
        masks: boolean, by parameter name.
        example: an input batch, a tensor ``[n, …]``, a tuple or a dict; of floats only the shape is
            used. A path is a path at this input size: kernel entries that only ever see padding
            are dead.
        output: selects a tensor from a forward that returns several; with ``"all"`` a path may
            lead to any of them.

    Returns:
        Masks that are a subset of ``masks``. Effective density is their density.

    Raises:
        RequestError: masks of another network, or a forward that fails on the example.

    Example:
        >>> chain = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> kept = {"0.weight": torch.eye(2).bool(), "1.weight": torch.tensor([[True, False]])}
        >>> living(chain, kept, torch.zeros(1, 2))["0.weight"]
        tensor([[ True, False],
                [False, False]])
    """
    check_fit(model, masks)
    return paths(model, masks, example, output=output)[0]


def connected(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    example: Inputs,
    *,
    output: Selector = None,
) -> bool:
    """Whether a path of kept weights leads from the input to the output; see ``living``.

    Raises:
        RequestError: as ``living``.

    Example:
        >>> chain = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> into_the_first, from_the_second = [[True, True], [False, False]], [[False, True]]
        >>> masks = {"0.weight": into_the_first, "1.weight": from_the_second}
        >>> masks = {name: torch.tensor(mask) for name, mask in masks.items()}
        >>> connected(chain, masks, torch.zeros(1, 2))
        False
    """
    check_fit(model, masks)
    return paths(model, masks, example, output=output)[1]


def is_cut_layer(model: nn.Module, layer: str, example: Inputs, *, output: Selector = None) -> bool:
    """Whether every input→output path crosses a layer: empty it and the network is cut.

    Any other layer lies in a branch.
    """
    model = plain(model)
    weight = model.get_parameter(layer)
    masks = {**dense(model), layer: torch.zeros(weight.shape, dtype=torch.bool).to(weight.device)}
    return not connected(model, masks, example, output=output)


def paths(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    example: Inputs,
    *,
    output: Selector = None,
    mode: Callable[[Mapping[str, Tensor]], ConnectionMode] = ConnectionMode,
    size: Size | None = None,
) -> tuple[Masks, bool]:
    """``living`` and ``connected`` in one pass.

    Args:
        mode: makes the mode that the pass runs in, for one that also looks at it on its way.
        size: what stands for kept weights, from ``size_of``; found here where it matters.
    """
    model = plain(model)
    tensors = _sized(model, masks, size or mean_weight)
    leaves = {name: tensors[name].requires_grad_() for name in masks}
    gradients, arrived = reach(model, tensors, leaves, leaves, example, output=output, mode=mode)
    if not arrived:  # behind a gate, which is open without an input, weights have a gradient
        if size is None and (other := size_of(model, example, output)) is not mean_weight:
            return paths(model, masks, example, output=output, mode=mode, size=other)
        return {name: torch.zeros_like(mask) for name, mask in masks.items()}, False
    alive = {
        name: torch.zeros_like(mask) if gradient is None else mask & _reached(gradient)
        for (name, mask), gradient in zip(masks.items(), gradients, strict=True)
    }
    return alive, True


def _sized(model: nn.Module, masks: Mapping[str, Tensor], size: Size) -> dict[str, Tensor]:
    def parameter(name: str, value: Tensor) -> Tensor:
        if name in masks:
            return masks[name].to(value.dtype).mul_(size(value))
        return constant(name, value, size)

    return stand_ins(model, dtype=compute_dtype(model), parameter=parameter)


def size_of(model: nn.Module, example: Inputs, output: Selector = None) -> Size:
    """What stands for kept weights: ``mean_weight``; ``largest_weight`` where that leads nowhere.

    A forward that rounds its weights makes nothing of a small number, so that no path is seen even
    where all of them are kept.
    """
    model = plain(model)
    arrives = paths(model, dense(model), example, output=output, size=mean_weight)[1]
    return mean_weight if arrives else largest_weight


def _reached(gradient: Tensor) -> Tensor:
    """``there``, in one pass over a large weight where every gradient is a number."""
    return there(gradient) if bool(gradient.sum().isnan()) else gradient != 0


def mean_weight(weight: Tensor) -> float:
    """So small that nothing saturates or grows in a call that is one operation."""
    return len(weight) / max(1, weight.numel()) if weight.ndim else 1.0


def largest_weight(weight: Tensor) -> float:
    """The largest magnitude of a layer's own weights, where that is more."""
    finite = weight.detach().nan_to_num(0, 0, 0)
    return max(mean_weight(weight), float(finite.abs().max()) if weight.numel() else 0.0)


def constant(name: str, value: Tensor, size: Size = mean_weight) -> Tensor:
    """What stands for a parameter that is not masked: all kept, and no bias."""
    bias = "bias" in name.rpartition(".")[2]  # also in calls that are not looked into
    return torch.zeros_like(value) if bias else torch.full_like(value, size(value))


def reach(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    scored: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    example: Inputs,
    *,
    output: Selector = None,
    mode: Callable[[Mapping[str, Tensor]], ConnectionMode] = ConnectionMode,
) -> tuple[Sequence[Tensor | None], bool]:
    """One pass on these tensors: the gradients that reach the wanted ones, and whether any reaches
    the input."""
    with untouched(model, "eval"), torch.enable_grad():
        running = mode(scored)
        entry = Ones.like(example, compute_dtype(model), scored=scored).entering(running.enter)
        with running:
            reached = call(model, tensors, entry, output)
        R = output_sum(reached)
        if not R.requires_grad:
            return [None] * len(wanted), False
        leaves = [*wanted.values(), *running.inputs]
        with backward_errors():
            gradients = torch.autograd.grad(R, leaves, allow_unused=True)
    entered = zip(running.inputs, gradients[len(wanted) :], strict=True)
    arrived = any(g is not None and bool(there(g * x.detach()).any()) for x, g in entered)
    return gradients[: len(wanted)], arrived
