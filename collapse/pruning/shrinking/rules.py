"""What each operation of a traced network does to units: which of its results are zero for good,
and which units of its inputs are needed.

A *unit* is one entry along a tensor's unit axis: a channel of an image, a feature of a vector. Axes
are counted from the right, so that they survive broadcasting. A tensor without a unit axis is whole
or not there at all. Every operation that has no rule is `Opaque`: it gets whole inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Facts:
    """What rules may know.

    Attributes:
        shapes: of each tensor of the graph, at the example.
        axes: the unit axis of each, negative; None for whole tensors.
        modules: by path.
        edges: which entries of a parameter may differ from zero, by name.
        quiet: which entries of a bias are zero and stay zero in training, by name.
    """

    shapes: Mapping[fx.Node, Shape]
    axes: dict[fx.Node, int | None]
    modules: Mapping[str, nn.Module]
    edges: Callable[[str], Tensor]
    quiet: Callable[[str], Tensor]

    def size(self, node: fx.Node) -> int:
        """How many units a tensor has; 1 of a whole one."""
        axis = self.axes[node]
        return 1 if axis is None else self.shapes[node][axis]


class Rule:
    """One operation. ``inputs`` are the tensors that it reads."""

    axis: int | None = None

    def __init__(self, node: fx.Node, facts: Facts) -> None:
        self.node, self.facts = node, facts
        self.inputs = [n for n in node.all_input_nodes if n in facts.shapes]

    @property
    def size(self) -> int:
        return 1 if self.axis is None else self.facts.shapes[self.node][self.axis]

    def zero(self, zeros: Sequence[Tensor]) -> Tensor:
        """Which units of the result are zero for good, from those of the inputs."""
        raise NotImplementedError

    def constant(self, values: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor | None:
        """The value of each unit that is the same for every input, position and mode; else NaN.

        Args:
            values: the same of the inputs, float64.
            weights: the masked network's, by name.
        """
        return None

    def back(self, out: Tensor, zeros: Sequence[Tensor], gradient: bool) -> list[Tensor]:
        """Which units of each input the units ``out`` of the result depend on.

        Args:
            gradient: through which of them a gradient comes that need not be zero.
        """
        raise NotImplementedError


class Opaque(Rule):
    """Whole inputs, a whole result."""

    def zero(self, zeros: Sequence[Tensor]) -> Tensor:
        return torch.tensor([False])

    def back(self, out: Tensor, zeros: Sequence[Tensor], gradient: bool) -> list[Tensor]:
        return [out.any().expand(self.facts.size(node)) for node in self.inputs]


class UnitWise(Rule):
    """Each unit of the result comes from the same unit of the one input, and zero gives zero.

    Args:
        stops: whether no gradient passes where the input is zero, as through ReLU.
        keeps_zero: False for functions that are not zero at zero.
    """

    def __init__(
        self, node: fx.Node, facts: Facts, *, stops: bool = False, keeps_zero: bool = True
    ) -> None:
        super().__init__(node, facts)
        self.stops, self.keeps_zero = stops, keeps_zero
        self.axis = facts.axes[self.inputs[0]]

    def zero(self, zeros: Sequence[Tensor]) -> Tensor:
        return zeros[0] if self.keeps_zero else torch.zeros_like(zeros[0])

    def back(self, out: Tensor, zeros: Sequence[Tensor], gradient: bool) -> list[Tensor]:
        return [out & ~zeros[0] if gradient and self.stops else out]

    def constant(self, values: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor | None:
        if self.node.op != "call_module" or self.axis is None:
            return None
        module = self.facts.modules[str(self.node.target)]
        pointwise = isinstance(module, (*STOPS, *POINTWISE, *GATES))
        if pointwise or (isinstance(module, DROPOUTS) and module.p == 0):
            with torch.no_grad():
                return module(values[0].clone()) if pointwise else values[0]
        return None


class Moved(UnitWise):
    """A permutation of axes."""

    def __init__(self, node: fx.Node, facts: Facts, order: Sequence[int]) -> None:
        super().__init__(node, facts)
        if self.axis is not None:
            count = len(order)
            self.axis = [i % count for i in order].index(self.axis % count) - count


class Norm(UnitWise):
    """BatchNorm: a unit that is zero comes out as its shift."""

    def __init__(self, node: fx.Node, facts: Facts) -> None:
        super().__init__(node, facts)
        self.module = facts.modules[str(node.target)]
        self.axis = 1 - len(facts.shapes[node])

    def zero(self, zeros: Sequence[Tensor]) -> Tensor:
        found = seen(zeros[0], self.size)
        mean: Any = self.module.running_mean
        if mean is not None:
            found = found & (mean == 0).cpu()
        if self.module.weight is not None:
            found = found | ~self.facts.edges(f"{self.node.target}.weight")
        if self.module.bias is not None:
            found = found & self.facts.quiet(f"{self.node.target}.bias")
        return found

    def back(self, out: Tensor, zeros: Sequence[Tensor], gradient: bool) -> list[Tensor]:
        return [told(out, self.facts.size(self.inputs[0]))]


class Map(Rule):
    """A linear layer or a convolution, also with groups; transposed without groups.

    Attributes:
        links: boolean ``[groups, out, in]``: whether a weight of the kernel is kept.
        transposed: the weight is stored ``[in, out, …]``.
    """

    def __init__(self, node: fx.Node, facts: Facts) -> None:
        super().__init__(node, facts)
        self.module = facts.modules[str(node.target)]
        self.axis = -1 if isinstance(self.module, nn.Linear) else 1 - len(facts.shapes[node])
        self.transposed = getattr(self.module, "transposed", False)
        self.groups = getattr(self.module, "groups", 1)
        edges = facts.edges(f"{node.target}.weight")
        links = edges.flatten(2).any(2) if edges.ndim > 2 else edges
        links = links.T if self.transposed else links
        self.links = links.reshape(self.groups, -1, links.shape[1])
        self.folded: Tensor | None = None  # what constant inputs add to each unit, float64

    def fold(self, values: Tensor, zero: Tensor, weights: Mapping[str, Tensor]) -> None:
        """Read constant inputs no more: what they add becomes a part of the bias."""
        given = seen(values, self.links.shape[2])
        constant = ~given.isnan() & ~seen(zero, len(given))
        if self._unpadded and bool((self.links[0] & constant).any()):
            self.folded = self._sums(weights) @ given.where(constant, 0.0)
            self.links = self.links & ~constant

    @property
    def _unpadded(self) -> bool:
        plain = self.groups == 1 and not self.transposed
        padding: Any = getattr(self.module, "padding", 0)
        return plain and (padding in (0, "valid") or not any(padding))

    def _sums(self, weights: Mapping[str, Tensor]) -> Tensor:
        weight = weights[f"{self.node.target}.weight"].double().cpu()
        return weight.flatten(2).sum(2) if weight.ndim > 2 else weight

    def constant(self, values: Sequence[Tensor], weights: Mapping[str, Tensor]) -> Tensor | None:
        if not self._unpadded:
            return None
        given = seen(values[0], self.links.shape[2])
        total = self._sums(weights) @ given.nan_to_num(0.0)
        if self.module.bias is not None:
            total = total + weights[f"{self.node.target}.bias"].double().cpu()
        varies = (self.links[0] & given.isnan()).any(1)
        return total.where(~varies, torch.nan)

    @property
    def bias_quiet(self) -> Tensor:
        if self.module.bias is None:
            return torch.ones(self.size, dtype=torch.bool)
        return self.facts.quiet(f"{self.node.target}.bias")

    def zero(self, zeros: Sequence[Tensor]) -> Tensor:
        sources = ~seen(zeros[0], self.links.shape[0] * self.links.shape[2])
        fed = (self.links & sources.view(self.groups, 1, -1)).any(2).flatten()
        return ~fed & self.bias_quiet

    def back(self, out: Tensor, zeros: Sequence[Tensor], gradient: bool) -> list[Tensor]:
        used = (self.links & out.view(self.groups, -1, 1)).any(1).flatten()
        return [told(used, self.facts.size(self.inputs[0]))]


class Sum(Rule):
    """Addition and subtraction, with broadcasting."""

    def __init__(self, node: fx.Node, facts: Facts) -> None:
        super().__init__(node, facts)
        self.axis = common_axis(self.inputs, facts)
        self.shifted = any(x for x in node.args if isinstance(x, int | float))

    def zero(self, zeros: Sequence[Tensor]) -> Tensor:
        return torch.stack([seen(zero, self.size) for zero in zeros]).all(0) & (not self.shifted)

    def back(self, out: Tensor, zeros: Sequence[Tensor], gradient: bool) -> list[Tensor]:
        return [told(out, self.facts.size(node)) for node in self.inputs]


class Product(Rule):
    """Multiplication, with broadcasting: zero if a factor is."""

    def __init__(self, node: fx.Node, facts: Facts) -> None:
        super().__init__(node, facts)
        self.axis = common_axis(self.inputs, facts)

    def zero(self, zeros: Sequence[Tensor]) -> Tensor:
        return torch.stack([seen(zero, self.size) for zero in zeros]).any(0)

    def back(self, out: Tensor, zeros: Sequence[Tensor], gradient: bool) -> list[Tensor]:
        views = [seen(zero, self.size) for zero in zeros]
        found = []
        for place, node in enumerate(self.inputs):
            others = [zero for i, zero in enumerate(views) if i != place]
            need = out & ~torch.stack(others).any(0) if others else out
            found.append(told(need, self.facts.size(node)))
        return found


class Join(Rule):
    """Concatenation along the unit axis."""

    def __init__(self, node: fx.Node, facts: Facts, axis: int) -> None:
        super().__init__(node, facts)
        self.axis = axis
        self.parts: list[fx.Node] = list(node.args[0])  # type: ignore[arg-type]  # fx's arguments
        self.inputs = self.parts
        self.sizes = [facts.shapes[part][axis] for part in self.parts]

    def zero(self, zeros: Sequence[Tensor]) -> Tensor:
        return torch.cat([seen(z, s) for z, s in zip(zeros, self.sizes, strict=True)])

    def back(self, out: Tensor, zeros: Sequence[Tensor], gradient: bool) -> list[Tensor]:
        pairs = zip(torch.split(out, self.sizes), self.parts, strict=True)
        return [told(part, self.facts.size(node)) for part, node in pairs]


class Flat(Rule):
    """``[n, C, …]`` to ``[n, C ⋅ …]``."""

    axis = -1

    def __init__(self, node: fx.Node, facts: Facts) -> None:
        super().__init__(node, facts)
        self.positions = math.prod(facts.shapes[self.inputs[0]][2:])

    def zero(self, zeros: Sequence[Tensor]) -> Tensor:
        return seen(zeros[0], self.size // self.positions).repeat_interleave(self.positions)

    def back(self, out: Tensor, zeros: Sequence[Tensor], gradient: bool) -> list[Tensor]:
        need = out.view(-1, self.positions).any(1)
        return [told(need, self.facts.size(self.inputs[0]))]


def seen(units: Tensor, size: int) -> Tensor:
    """Of a whole tensor all units are alike."""
    return units.expand(size) if len(units) == 1 else units


def told(units: Tensor, size: int) -> Tensor:
    return units.any().view(1) if size == 1 else units


def common_axis(nodes: Sequence[fx.Node], facts: Facts) -> int | None:
    """The unit axis that all tensors share; whole ones and broadcast ones go along with any."""
    axes = {facts.axes[node] for node in nodes if facts.size(node) > 1}
    return axes.pop() if len(axes) == 1 else None


STOPS = (nn.ReLU, nn.ReLU6)  # no gradient at zero
POINTWISE = (
    *(nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Hardswish, nn.ELU, nn.SELU, nn.CELU, nn.Mish),
    *(nn.Softsign, nn.Identity),
)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
GATES = (nn.Sigmoid, nn.Hardsigmoid, nn.Softplus)
