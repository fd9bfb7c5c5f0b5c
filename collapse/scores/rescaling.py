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
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx, nn

from collapse.errors import RequestError, first_line
from collapse.models import Masks, is_bias, place_of

# What asks for a form: numbers, and no part of the function, as is all that is made of them alone.
_FORMS = frozenset({"size", "dim", "numel", "ndimension"})
_OF_FORMS = frozenset({"shape", "ndim", "dtype", "device"})


def _name(node: fx.Node) -> str:
    return getattr(node.target, "__name__", str(node.target))


def _carrying(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that depend on the values of an input; sizes and parameters do not."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        form = node.op in ("call_function", "call_method") and (
            _name(node) in _FORMS or (_name(node) == "getattr" and node.args[1] in _OF_FORMS)
        )
        if node.op == "placeholder" or (not form and found & set(node.all_input_nodes)):
            found.add(node)
    return found


def bottlenecks(graph: fx.Graph) -> list[fx.Node]:
    """The nodes of a traced network that every path from an input to the output passes.

    In topological order, a node is a bottleneck exactly when no edge jumps over it: such an edge
    would be part of a path that avoids it. Only nodes on input→output paths count.
    """
    nodes = list(graph.nodes)
    below = _carrying(graph)
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
# running means at zero), and those that only move numbers.
_MODULES = (
    *(nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm),
    *(nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity, nn.modules.dropout._DropoutNd, nn.Flatten),
    *(nn.Unflatten, nn.Upsample, nn.PixelShuffle, nn.ChannelShuffle, nn.ZeroPad2d),
    *(nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd),
    *(nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd),
)
_JOINS = frozenset({"cat", "concat", "concatenate", "stack"})
_NAMES = _JOINS | frozenset({
    *("sum", "mean", "amax", "relu", "leaky_relu", "dropout", "interpolate"),
    *(f"{name}{d}d" for d in (1, 2, 3) for name in (
        *("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool"),
    )),
    *("flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "contiguous"),
    *("chunk", "split", "narrow", "expand", "getattr", "getitem", "to", "clone"),
})  # fmt: skip


_MAPS = frozenset({"linear", "conv1d", "conv2d", "conv3d"})


def _check_homogeneous(traced: fx.GraphModule, masks: Masks) -> None:
    """Raise RequestError that names an operation which is not known to be homogeneous."""
    found = next(filter(is_bias, masks), None) or next(_not_known(traced), None)
    if found is not None:
        raise RequestError(
            f"its range needs rescaling, which is exact for homogeneous networks only: {found} is "
            "not known to be"
        )


def _not_known(traced: fx.GraphModule) -> Iterator[str]:
    carrying = _carrying(traced.graph)
    for node in traced.graph.nodes:
        if node not in carrying or node.op in ("placeholder", "output"):
            continue
        if node.op == "call_module":
            module = traced.get_submodule(str(node.target))
            if not isinstance(module, _MODULES) or getattr(module, "running_mean", 0) is None:
                yield f"'{type(module).__name__}' in {node.target}"
        elif not _keeps_the_degree(node, carrying):
            paths = list(node.meta.get("nn_module_stack", {}))
            yield f"'{_name(node)}' in {(paths and paths[-1]) or 'the network'}"


def _keeps_the_degree(node: fx.Node, carrying: set[fx.Node]) -> bool:
    """Whether a call is homogeneous of degree one in what it carries.

    Sums and joins take tensors of the network alone, products one of them; padding is with zeros,
    and SynFlow's biases and running means are zero.
    """
    name, options = _name(node).strip("_"), node.kwargs
    carries = [isinstance(term, fx.Node) and term in carrying for term in node.args]
    if name in ("add", "iadd"):
        return carries[:2] == [True, True]
    if name in ("mul", "truediv", "div"):
        return sum(carries[:2]) == 1 and (name == "mul" or carries[0])
    if name in _MAPS:
        bias = options.get("bias", node.args[2] if len(node.args) > 2 else None)
        return carries[:2] == [True, False] and _is_zero(bias)
    if name == "batch_norm":
        order = ("input", "running_mean", "running_var", "weight", "bias", "training")
        given = {**dict(zip(order, node.args, strict=False)), **options}
        zero = _is_zero(given.get("bias")) and _is_zero(given["running_mean"])
        batch = given.get("training") or given["running_mean"] is None
        return sum(carries) == 1 and zero and not batch
    if name == "pad":
        value = options.get("value", node.args[3] if len(node.args) > 3 else None)
        return value in (None, 0) and options.get("mode") in (None, "constant")
    joined: Any = node.args[0] if name in _JOINS and node.args else []
    return name in _NAMES and all(part in carrying for part in joined)


def _is_zero(value: Any) -> bool:
    """Whether what is added is nothing, or a parameter that SynFlow leaves out of ``R``."""
    if value is None:
        return True
    name = str(value.target) if isinstance(value, fx.Node) and value.op == "get_attr" else ""
    return is_bias(name) or name.rpartition(".")[2] == "running_mean"


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
            f"{first_line(error)}{place_of(model, error)}"
        ) from error
    _check_homogeneous(traced, masks)
    for node in bottlenecks(traced.graph):
        with traced.graph.inserting_after(node):
            scaled = traced.graph.call_function(normalise, (node,))
        node.replace_all_uses_with(scaled)
        scaled.args = (node,)  # which the replacement has turned into a use of itself
    traced.recompile()
    return traced
