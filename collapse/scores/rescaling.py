"""Keep SynFlow's ``R`` inside floating point on networks of any depth.

``R`` is multilinear in the layers: multiplying one whole cut by a constant multiplies ``R`` and
all scores alike. A tensor that every input→output path passes, a *bottleneck*, is such a cut by
itself. A traced copy of the network divides each bottleneck by a power of two, which rounds
nothing and changes no rank. By conservation the flow through every bottleneck is ``R``, so
normalising activations forward normalises gradients backward too. All of this holds for networks
of degree-one homogeneous functions alone.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, fx, nn

from collapse.errors import RequestError, first_line
from collapse.models import Masks, is_bias


def bottlenecks(graph: fx.Graph) -> list[fx.Node]:
    """The nodes of a traced network that every path from an input to the output passes.

    In topological order, a node is a bottleneck exactly when no edge jumps over it: such an edge
    would be part of a path that avoids it. Only nodes on input→output paths count.
    """
    nodes = list(graph.nodes)
    below: set[fx.Node] = set()  # reached from an input
    for node in nodes:
        if node.op == "placeholder" or any(source in below for source in node.all_input_nodes):
            below.add(node)
    above: set[fx.Node] = set()  # reaches the output
    for node in reversed(nodes):
        if node.op == "output" or any(user in above for user in node.users):
            above.add(node)
    path = [node for node in nodes if node in below and node in above]
    position = {node: index for index, node in enumerate(path)}
    reach = 0
    found = []
    for index, node in enumerate(path):
        if reach <= index and node.op not in ("placeholder", "output"):
            found.append(node)
        users = [position[user] for user in node.users if user in position]
        reach = max([reach, *users])
    return found


# Modules and functions that are linear or degree-one homogeneous on SynFlow's tensors (biases and
# running means at zero), and those that only look at or move numbers.
_MODULES = (
    *(nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm),
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity, nn.modules.dropout._DropoutNd, nn.Flatten),
    *(nn.Unflatten, nn.Upsample, nn.PixelShuffle, nn.ChannelShuffle, nn.ZeroPad2d),
    *(nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd),
    *(nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd),
)
_NAMES = frozenset({
    *("add", "add_", "iadd", "cat", "concat", "concatenate", "stack", "sum", "mean", "amax", "mul"),
    *("truediv", "div", "relu", "relu_", "leaky_relu", "dropout", "linear", "pad", "interpolate"),
    *(f"{name}{d}d" for d in (1, 2, 3) for name in (
        *("conv", "max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool"),
    )),
    *("flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "contiguous"),
    *("chunk", "split", "narrow", "expand", "size", "dim", "numel", "getattr", "getitem"),
    *("floordiv", "to", "clone"),
})  # fmt: skip


def _check_homogeneous(traced: fx.GraphModule, masks: Masks) -> None:
    """Raise RequestError that names an operation which is not known to be homogeneous."""
    found = next(filter(is_bias, masks), None)
    for node in traced.graph.nodes:
        if node.op == "call_module":
            module = traced.get_submodule(str(node.target))
            known = isinstance(module, _MODULES) and getattr(module, "running_mean", 0) is not None
            name = type(module).__name__
        elif node.op in ("call_function", "call_method"):
            name = getattr(node.target, "__name__", str(node.target))
            known = name in _NAMES and _keeps_the_degree(node)
        else:
            name, known = str(node.target), node.op != "get_attr"
        if not known:
            found = found or f"'{name}' in {node.name}"
    if found is not None:
        raise RequestError(
            f"its range needs rescaling, which is exact for homogeneous networks only: {found} is "
            "not known to be"
        )


def _keeps_the_degree(node: fx.Node) -> bool:
    """Sums take tensors of the network alone, products one and a number; padding is with zeros."""
    name = getattr(node.target, "__name__", str(node.target)).strip("_")
    terms = sum(isinstance(term, fx.Node) for term in node.args[:2])
    if name in ("add", "iadd"):
        return terms == 2
    if name in ("mul", "truediv", "div"):
        return terms == 1 and isinstance(node.args[0], fx.Node)
    if name == "pad":
        value = node.kwargs.get("value", node.args[3] if len(node.args) > 3 else None)
        return value in (None, 0) and node.kwargs.get("mode") in (None, "constant")
    return True


def rescaled(model: nn.Module, masks: Masks, exponents: list[int]) -> fx.GraphModule:
    """A traced copy of a homogeneous ``model`` that divides every bottleneck by a power of two.

    Args:
        masks: what is scored; biases among it are in ``R``, which is then not homogeneous.
        exponents: receives, in each call, the power of two taken out at each bottleneck.

    Raises:
        RequestError: torch.fx cannot trace the model, or it has an operation that is not known to
            be homogeneous (it is named).
    """

    def normalise(x: Any) -> Any:
        if not (isinstance(x, Tensor) and x.is_floating_point()):
            return x  # a shape, or a tuple whose parts are nodes of their own
        _, exponent = math.frexp(float(x.detach().abs().max()))
        exponents.append(exponent)
        return x * math.ldexp(1.0, -exponent)

    try:
        # One submodule object in the copy as in the original: same parameters, same names.
        traced = fx.symbolic_trace(model)
    except Exception as error:  # tracing runs the user's forward, which may raise anything
        raise RequestError(
            f"its range needs rescaling, which needs a model that torch.fx can trace: "
            f"{first_line(error)}"
        ) from error
    _check_homogeneous(traced, masks)
    for node in bottlenecks(traced.graph):
        with traced.graph.inserting_after(node):
            scaled = traced.graph.call_function(normalise, (node,))
        node.replace_all_uses_with(scaled)
        scaled.args = (node,)  # which the replacement has turned into a use of itself
    traced.recompile()
    return traced
