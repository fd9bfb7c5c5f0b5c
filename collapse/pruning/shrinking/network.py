"""A physically smaller network with the same function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase

from collapse.errors import RequestError, first_line
from collapse.masks import check_fit
from collapse.models import Selector, call, plain, stand_ins, untouched
from collapse.options import Mode
from collapse.pruning.shrinking.analysis import analysed
from collapse.pruning.shrinking.rewriting import Places, Rewriting, gathered

# Both networks are compared in float64 before the smaller one is handed out.
_TOLERANCE = 1e-9
_ROUNDING = 1e-15
# Their gradients, relative to the largest: far above rounding, far below another gradient.
_TRAINED_ALIKE = 1e-5


@dataclass(frozen=True)
class Shrunk:
    """A smaller network, and where its tensors lie in the whole one.

    Attributes:
        network: an ordinary module, in the mode of the original.
        places: by name of a parameter or buffer, the indices along each axis that are left (None:
            all); tensors without an entry are whole.
        units: by name of a weight, the output and input units that are left.
        reached: names of the original's parameters that its output depends on.
        zero: by path of a BatchNorm, the units whose input is zero for good.
    """

    network: fx.GraphModule
    places: dict[str, Places]
    units: dict[str, tuple[Tensor, Tensor]]
    reached: set[str]
    zero: dict[str, Tensor]

    def gather(self, name: str, whole: Tensor) -> Tensor:
        """What the smaller network has of a tensor, by name."""
        return gathered(whole, self.places.get(name, ()))

    def scatter(self, name: str, part: Tensor, into: Tensor) -> None:
        """Write a tensor of the smaller network to its places in the whole one."""
        places = self.places.get(name, ())
        if not places:
            into.copy_(part)
            return
        full = [
            torch.arange(size) if index is None else index
            for size, index in zip(into.shape, places, strict=False)
        ]
        into[torch.meshgrid(full, indexing="ij")] = part


def shrunk(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    example: Tensor,
    *,
    moving: Mapping[str, Tensor] | None = None,
    fold: bool = False,
    output: Selector = None,
) -> Shrunk:
    """``shrink`` with the places of what is left.

    Args:
        fold: constants into biases, which is right for the weights as they are; without it, also
            in training, where the constants move.
        moving: by parameter name, the momentum with which it is trained.
    """
    check_fit(model, masks)
    if not isinstance(example, Tensor):
        raise RequestError(
            "cannot be shrunk: expected a network of one tensor, and a batch of it as example; got "
            f"{type(example).__name__}"
        )
    model, moving = plain(model), moving or {}
    for name, parameter in model.named_parameters():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise RequestError(
                f"cannot be shrunk: '{name}' has a hook on its gradient, which would see a part"
            )
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    by_id = {id(p): masks[name] for name, p in model.named_parameters() if name in masks}

    def kept(name: str) -> Tensor:
        mask = by_id.get(id(tensors[name]))
        shape = tensors[name].shape
        return torch.ones(shape, dtype=torch.bool) if mask is None else mask.cpu()

    def zero(name: str) -> Tensor:
        found = (tensors[name].detach() == 0) | ~kept(name).to(tensors[name].device)
        if name in moving:
            found = found & (moving[name] == 0)
        return found.cpu()

    values = {
        name: tensor.detach().masked_fill(~by_id[id(tensor)], 0) if id(tensor) in by_id
        else tensor.detach()
        for name, tensor in tensors.items()
    }  # fmt: skip
    batch = example[:1]
    try:
        found = analysed(model, kept, zero, batch, values if fold else None)
    except RequestError:
        raise
    except Exception as error:  # the forward is the user's and may raise anything
        raise RequestError(
            f"cannot be shrunk: its forward failed on an input of shape {tuple(batch.shape)}: "
            f"{first_line(error)}"
        ) from error
    writing = Rewriting(found, values)
    network = writing.network()
    network.train(model.training)
    left = dict(network.named_parameters()) | dict(network.named_buffers())
    places = {name: place for name, place in writing.places.items() if name in left}
    own = own_names(model)
    reached = {own[name] for name in found.reached if name in own}  # buffers are read, too
    result = Shrunk(network, places, writing.left, reached, found.zero_inputs())
    _check_same(model, masks, result, example, output, writing.unrounded)
    return result


def own_names(model: nn.Module) -> dict[str, str]:
    """Of each name that a parameter has the first one: what several modules share has more."""
    first = {id(p): name for name, p in model.named_parameters()}
    return {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}


def shrink(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    example: Tensor,
    *,
    output: Selector = None,
) -> nn.Module:
    """A physically smaller ordinary module that computes what the masked model does.

    Channels, features and branches that nothing reads, or that are zero for every input and stay
    so in training, are gone; the names of what is left are those of the model. In train mode the
    outputs, the gradients of what is left and the streams of dropout are the same too. A channel
    that is constant but not zero is folded into the biases of what reads it; behind BatchNorm,
    whose constants depend on the mode, and in front of zero padding, where they depend on the
    position, it is kept as it is. Operations without a rule, modules that are used twice and shared
    weights keep their size. Arguments that are None by default are no arguments of the smaller
    network.

    Args:
        model: left as it is.
        masks: boolean, by parameter name.
        example: an input batch ``[n, …]``.
        output: selects a tensor from a forward that returns several.

    Raises:
        RequestError: masks of another network; a forward that fails on the example, cannot be
            traced by ``torch.fx``, or is another one in train mode.

    Example:
        >>> chain = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
        >>> masks = {"0.weight": torch.eye(2).bool(), "2.weight": torch.tensor([[True, False]])}
        >>> shrink(chain, masks, torch.zeros(1, 2)).get_submodule("0").out_features
        1
    """
    return shrunk(model, masks, example, fold=True, output=output).network


def _check_same(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    small: Shrunk,
    example: Tensor,
    output: Selector,
    unrounded: Mapping[str, Tensor],
) -> None:
    """Raise RequestError unless both networks agree on noise, in eval and in train mode.

    Args:
        unrounded: by name, what tensors of the smaller network were before they were rounded.
    """
    batch = example[:1].repeat(4, *(1,) * (example.ndim - 1))
    if batch.is_floating_point():
        draw = torch.Generator().manual_seed(0)
        batch = torch.randn(batch.shape, dtype=torch.float64, generator=draw).to(batch.device)

    def run(network: nn.Module, mode: Mode, x: Tensor, seed: int, graded: bool = False) -> _Step:
        def masked(name: str, value: Tensor) -> Tensor:
            return value.masked_fill(~masks[name], 0) if name in masks else value

        def exact(name: str, value: Tensor) -> Tensor:
            return unrounded[name].to(value) if name in unrounded else value

        parameter = masked if network is model else exact
        tensors = stand_ins(network, dtype=torch.float64, parameter=parameter)
        with torch.set_grad_enabled(graded):
            return _step(network, tensors, x, mode, seed, output)

    # A forward that draws whether a layer runs was traced with one answer: another seed shows it.
    modes: tuple[tuple[Mode, int], ...] = (("eval", 0), *(("train", seed) for seed in range(4)))
    for mode, seed in modes:
        graded = (mode, seed) == ("train", 0)  # once is enough, and costs as much again
        steps = [run(network, mode, batch, seed, graded) for network in (model, small.network)]
        whole, part = (step.output for step in steps)
        if whole.shape != part.shape or not _distance(whole, part) <= _TOLERANCE:
            # BatchNorm over few positions multiplies rounding: as much as of a tiny change.
            allowed = 0.0
            if batch.is_floating_point():
                near = run(model, mode, batch * (1 + _ROUNDING), seed).output
                allowed = 100 * _distance(whole, near)
            if whole.shape != part.shape or not _distance(whole, part) <= allowed:
                raise RequestError(
                    f"cannot be shrunk: a smaller network was {_distance(whole, part):.1e} away "
                    f"from it in {mode} mode"
                )
        if graded:
            _check_trained_alike(model, masks, steps[0], small, steps[1])


@dataclass(frozen=True)
class _Step:
    """What a forward gives, the gradients of parameters where it has any, and the buffers after."""

    output: Tensor
    gradients: dict[str, Tensor | None]
    buffers: dict[str, Tensor]


def _step(
    network: nn.Module,
    tensors: dict[str, Tensor],
    x: Tensor,
    mode: Mode,
    seed: int,
    output: Selector,
) -> _Step:
    leaves = {
        name: tensors[name].requires_grad_()
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    }
    gradients: list[Tensor | None] = [None] * len(leaves)
    with untouched(network, mode, seed):
        found: Tensor = call(network, tensors, x, output)
        if found.requires_grad and leaves:
            draw = torch.Generator().manual_seed(1)
            weights = torch.randn(found.shape, dtype=torch.float64, generator=draw).to(found)
            total = (found * weights).sum()
            gradients = list(torch.autograd.grad(total, [*leaves.values()], allow_unused=True))
    buffers = {name: tensors[name] for name, _ in network.named_buffers() if name in tensors}
    return _Step(found.detach(), dict(zip(leaves, gradients, strict=True)), buffers)


def _check_trained_alike(
    model: nn.Module, masks: Mapping[str, Tensor], whole: _Step, small: Shrunk, part: _Step
) -> None:
    """Raise RequestError unless what is left would be trained as it is in the masked network.

    A traced forward knows nothing of ``no_grad``, of functions with a backward of their own, nor
    of buffers that it writes.
    """
    largest = max(
        (float(g.abs().max()) for g in whole.gradients.values() if g is not None and g.numel()),
        default=0.0,
    )
    own = own_names(model)
    for name, got in part.gradients.items():
        if name not in own:  # a bias that takes a constant
            continue
        expected = whole.gradients.get(own[name])
        if expected is None and got is None:
            continue
        apart = float("inf")
        if expected is not None:
            expected = small.gather(name, expected)
            got = torch.zeros_like(expected) if got is None else got
            if own[name] in masks:  # of what is pruned the gradient is thrown away
                kept = small.gather(name, masks[own[name]]).to(got)
                got, expected = got * kept, expected * kept
            apart = float((got - expected).abs().max()) / (largest or 1.0) if got.numel() else 0.0
        if not apart <= _TRAINED_ALIKE:
            raise RequestError(
                f"cannot be shrunk: the gradient of '{name}' would be another one (no_grad, or a "
                "function with a backward of its own)"
            )
    norms = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if isinstance(module, _NormBase)
        for name, _ in module.named_buffers()
    }
    before = dict(model.named_buffers())
    for name, after in whole.buffers.items():
        if name not in norms and not torch.equal(after, before[name].to(after)):
            raise RequestError(f"cannot be shrunk: its forward writes into the buffer '{name}'")


def _distance(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest entry if that is above 1."""
    return float((a - b).abs().max() / a.abs().max().clamp_min(1)) if a.numel() else 0.0
