"""Keep SynFlow's ``R`` inside floating point on networks of any depth.

``R`` is multilinear in the layers: multiplying one whole cut by a constant multiplies ``R`` and
all scores alike. A tensor that every input→output path passes, a *bottleneck*, is such a cut by
itself. A traced copy of the network divides each bottleneck by a power of two, which rounds
nothing and changes no rank. By conservation the flow through every bottleneck is ``R``, so
normalising activations forward normalises gradients backward too. (All of this holds for networks
of degree-one homogeneous functions; those with normalising or saturating ones stay in range.)
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, fx, nn

from collapse.errors import RequestError, first_line


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


def rescaled(model: nn.Module, exponents: list[int]) -> fx.GraphModule:
    """A traced copy of ``model`` that divides every bottleneck by a power of two.

    Args:
        exponents: receives, in each call, the power of two taken out at each bottleneck.

    Raises:
        RequestError: torch.fx cannot trace the model.
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
    for node in bottlenecks(traced.graph):
        with traced.graph.inserting_after(node):
            scaled = traced.graph.call_function(normalise, (node,))
        node.replace_all_uses_with(scaled)
        scaled.args = (node,)  # which the replacement has turned into a use of itself
    traced.recompile()
    return traced
