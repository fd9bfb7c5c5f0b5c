"""Random walks along the weights of a network, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode

from collapse.models import ContiguousGradients, Masks, call, compute_dtype, floats_of, stand_ins
from collapse.scores.gradients import gradients
from collapse.scores.inputs import ScoreInputs
from collapse.scores.pruners.synflow import positive

# Far below any rate of a weight that is not zero.
_NEVER = 1e-30


@dataclass(frozen=True)
class _Layer:
    """A weight as a table: one row a unit, from which a walk takes one of the row's weights.

    Rows are output units for walks towards the input (``rows`` of the weight), input units for
    walks towards the output.
    """

    shape: torch.Size
    groups: int
    rows: bool

    def table(self, weight: Tensor) -> Tensor:
        if self.rows or weight.ndim < 2:
            return weight.reshape(len(weight), -1)
        parts = weight.reshape(self.groups, len(weight) // self.groups, weight.shape[1], -1)
        return parts.transpose(1, 2).reshape(self.groups * weight.shape[1], -1)

    def whole(self, table: Tensor) -> Tensor:
        if self.rows or len(self.shape) < 2:
            return table.reshape(self.shape)
        parts = table.reshape(self.groups, self.shape[1], self.shape[0] // self.groups, -1)
        return parts.transpose(1, 2).reshape(self.shape)


@dataclass
class Steps:
    """The steps of walks in one direction, drawn in proportion to ``|θ|``.

    Walks begin at one unit after the other, in a circle.

    Attributes:
        towards_input: the direction.
        layers: how each weight is a table.
        rates: the probability of each weight, by its row of the table.
        begun: walks so far.
    """

    towards_input: bool
    layers: dict[str, _Layer]
    rates: dict[str, Tensor]
    begun: int = 0

    @classmethod
    def back(cls, model: nn.Module, masks: Masks) -> Steps:
        """Towards the input."""
        return cls._of(model, masks, True)

    @classmethod
    def forth(cls, model: nn.Module, masks: Masks) -> Steps:
        """Towards the output."""
        return cls._of(model, masks, False)

    @classmethod
    def _of(cls, model: nn.Module, masks: Masks, towards_input: bool) -> Steps:
        theta = stand_ins(model, dtype=torch.float64)
        layers, rates = {}, {}
        for name, mask in masks.items():
            module = model.get_submodule(name.rpartition(".")[0])
            groups = module.groups if isinstance(module, _ConvNd) else 1
            rows = towards_input != isinstance(module, _ConvTransposeNd)
            layers[name] = _Layer(mask.shape, groups, rows)
            table = layers[name].table(theta[name].abs() * mask)
            rates[name] = table / table.sum(1, keepdim=True).clamp(min=_NEVER)
        return cls(towards_input, layers, rates)

    def drawn(self, draw: torch.Generator) -> Masks:
        """One weight of each unit; none of a unit without."""
        chosen = {}
        for name, rates in self.rates.items():
            ends = rates.cumsum(1)
            places = torch.rand((len(rates), 1), generator=draw, dtype=rates.dtype).to(rates.device)
            index = torch.searchsorted(ends, places * ends[:, -1:], right=True)
            index.clamp_(max=rates.shape[1] - 1)
            table = torch.zeros_like(rates, dtype=torch.bool).scatter_(1, index, True)
            chosen[name] = self.layers[name].whole(table & (rates > 0))
        return chosen

    def clocks(self, draw: torch.Generator) -> dict[str, Tensor]:
        """Exponential times at these rates: when a unit that steps on and on takes each weight."""
        return {
            name: self.layers[name].whole(
                torch.empty(rates.shape, dtype=rates.dtype).exponential_(generator=draw)
                .to(rates.device) / rates.clamp(min=_NEVER)
            )
            for name, rates in self.rates.items()
        }  # fmt: skip


class _OneBranch(TorchFunctionMode):
    """Where two branches are added, a walk comes through one of them."""

    def __init__(self, draw: torch.Generator) -> None:
        super().__init__()
        self.draw = draw

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "").strip("_") in ("add", "iadd", "radd"):
            both = [x for x in args[:2] if isinstance(x, Tensor) and x.requires_grad]
            if len(both) == 2 and both[0].shape == both[1].shape:
                # In memory of its own: an activation may write into what is behind the sum.
                return both[int(torch.randint(2, (), generator=self.draw))].clone()
        return func(*args, **(kwargs or {}))


def visited(
    model: nn.Module, steps: Steps, walks: int, inputs: ScoreInputs, draw: torch.Generator
) -> Masks:
    """The weights on so many walks, which begin at the next units after those of before.

    A weight is on a walk when it is drawn and has a gradient of the sum over the walks' ends, on
    an input of ones: each drawn weight is one, so what has a gradient leads from end to end.
    """
    dtype = inputs.dtype or compute_dtype(model)
    turn = partial(_turn, steps.begun, walks)
    steps.begun += walks
    drawn = steps.drawn(draw)
    state = positive(model, drawn, dtype, torch.ones_like)
    leaves = {name: state[name].requires_grad_() for name in steps.layers}
    entry = replace(inputs, dtype=dtype).ones(steps.layers)
    if not steps.towards_input:
        entry = entry.entering(partial(_channels, turn))
    with ContiguousGradients(), _OneBranch(draw):
        outputs = floats_of(call(model, state, entry, inputs.output))
    end = torch.cat([output.flatten() for output in outputs])
    if steps.towards_input:
        end = end * turn(len(end)).to(end)
    found = gradients(end.sum(), leaves)
    return {name: drawn[name] & (part != 0) for name, part in found.items()}


def _channels(turn: Callable[[int], Tensor], x: Tensor) -> Tensor:
    """An input with those of its channels (dimension 1) whose turn it is."""
    return x * turn(x.shape[1]).to(x).view(1, -1, *[1] * (x.ndim - 2))


def _turn(begun: int, walks: int, units: int) -> Tensor:
    """One for the units whose turn it is to begin a walk, zero for others."""
    chosen = (torch.arange(min(walks, units)) + begun) % units
    return torch.zeros(units).index_fill_(0, chosen, 1.0)
