"""Which rule an operation of a traced network follows."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from collapse.pruning.shrinking.rules import (
    DROPOUTS,
    GATES,
    POINTWISE,
    STOPS,
    Facts,
    Flat,
    Join,
    Map,
    Moved,
    Norm,
    Opaque,
    Product,
    Rule,
    Sum,
    UnitWise,
)

_KEEP_ZERO = (
    *POINTWISE,
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d),
    *(nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
    *(nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)
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
    if kind in STOPS:
        return UnitWise(node, facts, stops=True)
    if kind in _KEEP_ZERO or kind in DROPOUTS:
        pooled = "Pool" in kind.__name__
        inside = axis is not None and pooled and axis > -int(kind.__name__[-2]) - 1
        return None if inside else UnitWise(node, facts)
    if kind in GATES:
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
    axis = facts.axes[source]
    tensors = [n for n in node.all_input_nodes if n in facts.shapes]
    if target in _STOPPING:
        return UnitWise(node, facts, stops=True)
    if target in _KEEPING and len(tensors) == 1:
        name = target if isinstance(target, str) else getattr(target, "__name__", "")
        inside = "pool" in name and axis is not None and axis > -int(name[-2]) - 1
        return None if inside else UnitWise(node, facts)
    if target in _GATING:
        return UnitWise(node, facts, keeps_zero=False)
    if target in _SUMS | _PRODUCTS:
        return _two(node, facts, tensors)
    if target in _JOINS:
        return _join(node, facts)
    if target in _FLAT:
        return _flat(node, facts, source)
    if target in _MEANS and len(tensors) == 1:
        return _mean(node, facts, source)
    if target in _PERMUTED and axis is not None:
        order = node.args[1] if isinstance(node.args[1], list | tuple) else node.args[1:]
        return Moved(node, facts, order)  # type: ignore[arg-type]  # numbers
    return None


def _two(node: fx.Node, facts: Facts, tensors: Sequence[fx.Node]) -> Rule | None:
    """A sum or a product of two different tensors."""
    mixed = len({facts.axes[n] for n in tensors if facts.size(n) > 1}) > 1
    if len(node.args) != 2 or node.kwargs or mixed or len(set(node.args)) < 2:
        return None
    if len(tensors) < len(node.all_input_nodes):
        return None
    return Sum(node, facts) if node.target in _SUMS else Product(node, facts)


def _mean(node: fx.Node, facts: Facts, source: fx.Node) -> Rule | None:
    """A mean over other dimensions than the units'."""
    axis, shape = facts.axes[source], facts.shapes[source]
    dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    dims = [dims] if isinstance(dims, int) else dims
    if axis is None or not isinstance(dims, list | tuple):
        return None
    gone = [int(d) % len(shape) for d in dims]
    if axis % len(shape) in gone:
        return None
    rule = UnitWise(node, facts)
    kept = len(facts.shapes[node]) == len(shape)
    rule.axis = axis + (0 if kept else sum(d > axis % len(shape) for d in gone))
    return rule


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
