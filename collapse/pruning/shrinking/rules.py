"""What each operation of a traced network does to units: which of its results are zero for good,
and which units of its inputs are needed.

A *unit* is one entry along a tensor's unit axis: a channel of an image, a feature of a vector. Axes
are counted from the right, so that they survive broadcasting. A tensor without a unit axis is whole
or not there at all. Every operation that has no rule is `Opaque`: it gets whole inputs.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
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
        found = _seen(zeros[0], self.size)
        mean: Any = self.module.running_mean
        if mean is not None:
            found = found & (mean == 0).cpu()
        if self.module.weight is not None:
            found = found | ~self.facts.edges(f"{self.node.target}.weight")
        if self.module.bias is not None:
            found = found & self.facts.quiet(f"{self.node.target}.bias")
        return found

    def back(self, out: Tensor, zeros: Sequence[Tensor], gradient: bool) -> list[Tensor]:
        return [_told(out, self.facts.size(self.inputs[0]))]


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

    @property
    def bias_quiet(self) -> Tensor:
        if self.module.bias is None:
            return torch.ones(self.size, dtype=torch.bool)
        return self.facts.quiet(f"{self.node.target}.bias")

    def zero(self, zeros: Sequence[Tensor]) -> Tensor:
        sources = ~_seen(zeros[0], self.links.shape[0] * self.links.shape[2])
        fed = (self.links & sources.view(self.groups, 1, -1)).any(2).flatten()
        return ~fed & self.bias_quiet

    def back(self, out: Tensor, zeros: Sequence[Tensor], gradient: bool) -> list[Tensor]:
        used = (self.links & out.view(self.groups, -1, 1)).any(1).flatten()
        return [_told(used, self.facts.size(self.inputs[0]))]


class Sum(Rule):
    """Addition and subtraction, with broadcasting."""

    def __init__(self, node: fx.Node, facts: Facts) -> None:
        super().__init__(node, facts)
        self.axis = common_axis(self.inputs, facts)
        self.constant = any(x for x in node.args if isinstance(x, int | float))

    def zero(self, zeros: Sequence[Tensor]) -> Tensor:
        seen = [_seen(zero, self.size) for zero in zeros]
        return torch.stack(seen).all(0) & (not self.constant)

    def back(self, out: Tensor, zeros: Sequence[Tensor], gradient: bool) -> list[Tensor]:
        return [_told(out, self.facts.size(node)) for node in self.inputs]


class Product(Rule):
    """Multiplication, with broadcasting: zero if a factor is."""

    def __init__(self, node: fx.Node, facts: Facts) -> None:
        super().__init__(node, facts)
        self.axis = common_axis(self.inputs, facts)

    def zero(self, zeros: Sequence[Tensor]) -> Tensor:
        return torch.stack([_seen(zero, self.size) for zero in zeros]).any(0)

    def back(self, out: Tensor, zeros: Sequence[Tensor], gradient: bool) -> list[Tensor]:
        seen = [_seen(zero, self.size) for zero in zeros]
        found = []
        for place, node in enumerate(self.inputs):
            others = [zero for i, zero in enumerate(seen) if i != place]
            need = out & ~torch.stack(others).any(0) if others else out
            found.append(_told(need, self.facts.size(node)))
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
        return torch.cat([_seen(z, s) for z, s in zip(zeros, self.sizes, strict=True)])

    def back(self, out: Tensor, zeros: Sequence[Tensor], gradient: bool) -> list[Tensor]:
        pairs = zip(torch.split(out, self.sizes), self.parts, strict=True)
        return [_told(part, self.facts.size(node)) for part, node in pairs]


class Flat(Rule):
    """``[n, C, …]`` to ``[n, C ⋅ …]``."""

    axis = -1

    def __init__(self, node: fx.Node, facts: Facts) -> None:
        super().__init__(node, facts)
        self.positions = math.prod(facts.shapes[self.inputs[0]][2:])

    def zero(self, zeros: Sequence[Tensor]) -> Tensor:
        return _seen(zeros[0], self.size // self.positions).repeat_interleave(self.positions)

    def back(self, out: Tensor, zeros: Sequence[Tensor], gradient: bool) -> list[Tensor]:
        need = out.view(-1, self.positions).any(1)
        return [_told(need, self.facts.size(self.inputs[0]))]


def _seen(units: Tensor, size: int) -> Tensor:
    """Of a whole tensor all units are alike."""
    return units.expand(size) if len(units) == 1 else units


def _told(units: Tensor, size: int) -> Tensor:
    return units.any().view(1) if size == 1 else units


def common_axis(nodes: Sequence[fx.Node], facts: Facts) -> int | None:
    """The unit axis that all tensors share; whole ones and broadcast ones go along with any."""
    axes = {facts.axes[node] for node in nodes if facts.size(node) > 1}
    return axes.pop() if len(axes) == 1 else None


_STOPS = (nn.ReLU, nn.ReLU6)  # no gradient at zero
_KEEP_ZERO = (
    *(nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Hardswish, nn.ELU, nn.SELU, nn.CELU, nn.Mish),
    *(nn.Softsign, nn.Identity, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d),
    *(nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
    *(nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_GATES = (nn.Sigmoid, nn.Hardsigmoid, nn.Softplus)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_MAPS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _named(*names: str) -> frozenset[Any]:
    """Functions by name, wherever torch has them, and methods as fx calls them."""
    spaces = (F, torch, Tensor)
    found = {getattr(space, n) for space in spaces for n in names if hasattr(space, n)}
    return frozenset({*found, *names})


_STOPPING = _named("relu", "relu_", "relu6")
_POOLS = tuple(f"{kind}_pool{d}d" for kind in ("max", "avg") for d in (1, 2, 3))
_ADAPTIVE = tuple(f"adaptive_{name}" for name in _POOLS)
_KEEPING = _named(
    *("leaky_relu", "gelu", "silu", "tanh", "hardswish", "elu", "contiguous"), *_POOLS, *_ADAPTIVE
)
_GATING = _named("sigmoid", "hardsigmoid")
_SUMS = _named("add", "add_", "sub") | {operator.add, operator.iadd, operator.sub}
_PRODUCTS = _named("mul", "mul_") | {operator.mul, operator.imul}
_JOINS = _named("cat", "concat")
_FLAT = _named("flatten", "view", "reshape")
_MEANS = _named("mean")
_PERMUTED = _named("permute")


def rule_of(node: fx.Node, facts: Facts, *, alone: Callable[[str], bool]) -> Rule:
    """The rule of a node whose inputs have theirs.

    Args:
        alone: whether a module is called once and shares no parameter.
    """
    opaque = Opaque(node, facts)
    if node not in facts.shapes or not opaque.inputs:
        return opaque
    found = None
    if node.op == "call_module" and alone(str(node.target)):
        found = _of_module(node, facts, facts.modules[str(node.target)])
    elif node.op in ("call_function", "call_method"):
        found = _of_function(node, facts)
    return found or opaque


def _of_module(node: fx.Node, facts: Facts, module: nn.Module) -> Rule | None:
    kind, (source, *more) = type(module), [n for n in node.all_input_nodes if n in facts.shapes]
    axis, shape = facts.axes[source], facts.shapes[source]
    if more or node.kwargs:
        return None
    if kind in _STOPS:
        return UnitWise(node, facts, stops=True)
    if kind in _KEEP_ZERO or kind in DROPOUTS:
        pooled = "Pool" in kind.__name__
        inside = axis is not None and pooled and axis > -int(kind.__name__[-2]) - 1
        return None if inside else UnitWise(node, facts)
    if kind in _GATES:
        return UnitWise(node, facts, keeps_zero=False)
    if kind is nn.Flatten and module.start_dim == 1 and module.end_dim == -1:
        return _flat(node, facts, source)
    if kind in _NORMS and axis in (None, 1 - len(shape)) and len(shape) > 1:
        return Norm(node, facts)
    linear = kind is nn.Linear or kind.__name__ == "NonDynamicallyQuantizableLinear"
    dims = 0 if linear else len(getattr(module, "kernel_size", ()))
    if kind in _MAPS or (kind in _TRANSPOSED and module.groups == 1):
        batched = linear or len(shape) == dims + 2
        return Map(node, facts) if batched and axis in (None, -dims - 1) else None
    return None


def _of_function(node: fx.Node, facts: Facts) -> Rule | None:
    target, source = node.target, node.all_input_nodes[0]
    if source not in facts.shapes:
        return None
    axis, shape = facts.axes[source], facts.shapes[source]
    tensors = [n for n in node.all_input_nodes if n in facts.shapes]
    if target in _STOPPING:
        return UnitWise(node, facts, stops=True)
    if target in _KEEPING and len(tensors) == 1:
        name = target if isinstance(target, str) else getattr(target, "__name__", "")
        inside = "pool" in name and axis is not None and axis > -int(name[-2]) - 1
        return None if inside else UnitWise(node, facts)
    if target in _GATING:
        return UnitWise(node, facts, keeps_zero=False)
    if target in _SUMS | _PRODUCTS and len(node.args) == 2 and not node.kwargs:
        mixed = len({facts.axes[n] for n in tensors if facts.size(n) > 1}) > 1
        kind: type[Rule] = Sum if target in _SUMS else Product
        if mixed or len(set(node.args)) < 2 or len(tensors) < len(node.all_input_nodes):
            return None
        return kind(node, facts)
    if target in _JOINS:
        return _join(node, facts)
    if target in _FLAT:
        return _flat(node, facts, source)
    if target in _MEANS and axis is not None and len(tensors) == 1:
        dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        dims = [dims] if isinstance(dims, int) else dims
        if not isinstance(dims, list | tuple) or axis % len(shape) in [
            int(d) % len(shape) for d in dims
        ]:
            return None
        rule = UnitWise(node, facts)
        rule.axis = axis + (
            0 if len(facts.shapes[node]) == len(shape)
            else sum(int(d) % len(shape) > axis % len(shape) for d in dims)
        )  # fmt: skip
        return rule
    if target in _PERMUTED and axis is not None:
        order = node.args[1] if isinstance(node.args[1], list | tuple) else node.args[1:]
        return Moved(node, facts, order)  # type: ignore[arg-type]  # numbers
    return None


def _flat(node: fx.Node, facts: Facts, source: fx.Node) -> Rule | None:
    shape, flat = facts.shapes[source], facts.shapes[node]
    fits = len(flat) == 2 < len(shape) and flat[0] == shape[0]
    return Flat(node, facts) if fits and facts.axes[source] == 1 - len(shape) else None


def _join(node: fx.Node, facts: Facts) -> Rule | None:
    parts = node.args[0]
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    if not isinstance(parts, list | tuple) or not isinstance(dim, int):
        return None
    axis = dim if dim < 0 else dim - len(facts.shapes[node])
    axes = {facts.axes[part] for part in parts}  # type: ignore[index]  # nodes
    return Join(node, facts, axis) if axis in axes and axes <= {None, axis} else None
