"""Which units of a masked network do anything: a fixed point over its traced graph.

A unit is left out if it is zero for every input and stays so in training, or if nothing that is
kept reads it. *Zero for good* is coinductive. Assume that every bias and shift that is zero stays
zero; find the units that are zero then; a gradient that reaches one of these biases refutes its
assumption; repeat. What is left is an invariant of training: values that are zero and gradients
that are zero keep each other so, because weight decay and momentum of zero are zero.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from collapse.errors import RequestError, first_line
from collapse.models import untouched
from collapse.pruning.shrinking.choice import rule_of
from collapse.pruning.shrinking.rules import DROPOUTS, Facts, Map, Norm, Rule, Shape


@dataclass(frozen=True)
class Analysed:
    """A traced network with what is known of its units.

    Attributes:
        rules: of each tensor of the graph, in the order of computation.
        zero, needed: by tensor, a flag a unit.
        shapes: at the example.
        axes: the unit axis of each tensor.
        reached: names of parameters that the output depends on.
    """

    graph: fx.Graph
    modules: Mapping[str, nn.Module]
    rules: dict[fx.Node, Rule]
    zero: dict[fx.Node, Tensor]
    needed: dict[fx.Node, Tensor]
    shapes: Mapping[fx.Node, Shape]
    axes: Mapping[fx.Node, int | None]
    reached: set[str]

    def zero_inputs(self) -> dict[str, Tensor]:
        """By path of a BatchNorm, the units whose input is zero for good."""
        return {
            str(node.target): self.zero[rule.inputs[0]].expand(rule.size)
            for node, rule in self.rules.items()
            if isinstance(rule, Norm)
        }


class _Shapes(fx.Interpreter):
    """Runs a graph and notes the shape of each tensor."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, Shape] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op != "output":
            self.shapes[n] = tuple(value.shape)
        return value


class _Tracer(fx.Tracer):
    """Arguments that are None by default stay so: a stand-in for one would be *not None*."""

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        given = inspect.signature(inspect.unwrap(root_fn)).parameters.values()
        for place, parameter in enumerate(given):
            if parameter.default is None and place < len(args):
                self.graph.erase_node(args[place].node)
                args[place] = None
        return function, args


def traced(model: nn.Module) -> fx.Graph:
    """The model's graph, the same in train and in eval mode, without arguments that are None.

    Raises:
        RequestError: it cannot be traced, it makes constants, or its forward is another in train
            mode; or a name in it is one of torch.fx's own.
    """
    for name in ("code", "graph"):
        if name in {**model._modules, **model._parameters, **model._buffers}:
            raise RequestError(
                f"cannot be shrunk: a traced network (torch.fx) has a '{name}' of its own: "
                "expected another name for the model's"
            )
    graphs, before = [], set(vars(model))
    for mode in ("eval", "train"):
        with untouched(model, mode):
            try:
                graphs.append(_Tracer().trace(model))
            except Exception as error:  # the forward is the user's and may raise anything
                raise RequestError(
                    f"cannot be shrunk: its forward cannot be traced ({first_line(error)})"
                ) from error
            constants = set(vars(model)) - before  # the tracer leaves them in the model
        if constants:
            raise RequestError(
                "cannot be shrunk: its forward makes a tensor of numbers (torch.tensor(…)): "
                "expected a buffer, made once by register_buffer"
            )
    if str(graphs[0]) != str(graphs[1]):
        raise RequestError("cannot be shrunk: its forward computes something else in train mode")
    return graphs[0]


def analysed(
    model: nn.Module,
    kept: Callable[[str], Tensor],
    zero: Callable[[str], Tensor],
    example: Tensor,
    weights: Mapping[str, Tensor] | None = None,
) -> Analysed:
    """Trace a model and find which of its units do anything.

    Args:
        kept: which entries of a parameter are kept, by name.
        zero: which are zero, their momentum included.
        weights: of the masked network; if given, constant units are folded into biases.

    Raises:
        RequestError: see ``traced``; or an operation in place changes what is used again.
    """
    graph = traced(model)
    interpreter = _Shapes(fx.GraphModule(model, graph))
    with untouched(model, "eval"), torch.no_grad():
        interpreter.run(example)
    shapes = interpreter.shapes
    modules = dict(model.named_modules())
    order = [node for node in graph.nodes if node in shapes]
    _check_in_place(graph, modules, order)
    quiet: dict[str, Tensor] = {}

    def may_stay_zero(name: str) -> Tensor:
        return quiet.setdefault(name, zero(name).clone())

    axes: dict[fx.Node, int | None] = {}
    facts = Facts(shapes, axes, modules, kept, may_stay_zero)
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    shared = _sharing(model)
    drawn = {path for path, module in modules.items() if isinstance(module, DROPOUTS)}
    # Of tied weights: F.linear(h, self.embed.weight.t()).
    read = {str(n.target).rpartition(".")[0] for n in graph.nodes if n.op == "get_attr"}

    def alone(path: str) -> bool:
        stateless = next(modules[path].parameters(), None) is None and path not in drawn
        return stateless or (calls[path] == 1 and path not in shared | read)

    rules: dict[fx.Node, Rule] = {}
    for node in order:
        rules[node] = rule_of(node, facts, alone=alone)
        axes[node] = rules[node].axis
    while True:
        zeros: dict[fx.Node, Tensor] = {}
        for node in order:
            zeros[node] = rules[node].zero([zeros[n] for n in rules[node].inputs])
        gradients = _back(graph, order, rules, zeros, gradient=True)
        changed = False
        for node, rule in rules.items():
            name = f"{node.target}.bias"
            if isinstance(rule, Map | Norm) and name in quiet:
                refuted = quiet[name] & gradients[node] & kept(name)
                changed |= bool(refuted.any())
                quiet[name] = quiet[name] & ~refuted
        if not changed:
            break
    if weights is not None:
        _fold(order, rules, zeros, weights)
    needed = _back(graph, order, rules, zeros, gradient=False)
    return Analysed(graph, modules, rules, zeros, needed, shapes, axes, _reached(graph, model))


def _back(
    graph: fx.Graph,
    order: list[fx.Node],
    rules: Mapping[fx.Node, Rule],
    zeros: Mapping[fx.Node, Tensor],
    *,
    gradient: bool,
) -> dict[fx.Node, Tensor]:
    """The units that the output depends on, or gets a gradient through."""
    found = {node: torch.zeros(rules[node].size, dtype=torch.bool) for node in order}
    for node in reversed(graph.nodes):
        if node not in rules:  # the output, a number, a tuple: what it reads is whole
            for source in node.all_input_nodes:
                if source in found and not reads_batch_only(node, source, rules[source]):
                    found[source][:] = True
        elif found[node].any():
            rule = rules[node]
            parts = rule.back(found[node], [zeros[n] for n in rule.inputs], gradient)
            for source, part in zip(rule.inputs, parts, strict=True):
                found[source] = found[source] | part
    return found


def _fold(
    order: list[fx.Node],
    rules: Mapping[fx.Node, Rule],
    zeros: Mapping[fx.Node, Tensor],
    weights: Mapping[str, Tensor],
) -> None:
    """Fold what is constant into the biases of the maps that read it."""
    values: dict[fx.Node, Tensor] = {}
    for node in order:
        rule = rules[node]
        given = [values[source] for source in rule.inputs]
        found = rule.constant(given, weights)
        if found is None:
            found = torch.full((rule.size,), torch.nan, dtype=torch.float64)
        values[node] = found.where(~zeros[node], 0.0)
        if isinstance(rule, Map):
            rule.fold(given[0], zeros[rule.inputs[0]], weights)


def reads_batch_only(node: fx.Node, source: fx.Node, rule: Rule) -> bool:
    """Whether a node only asks for a size that is the same in the smaller network."""
    if rule.axis is None:
        return False
    rank = len(rule.facts.shapes[source])
    if node.op == "call_method" and node.target == "size" and len(node.args) == 2:
        return bool(node.args[1] % rank != rule.axis % rank)  # type: ignore[operator]  # a number
    if node.op == "call_function" and node.target is getattr and node.args[1] == "shape":
        places = [user.args[1] for user in node.users if len(user.args) == 2]
        return len(places) == len(node.users) and all(
            isinstance(place, int) and place % rank != rule.axis % rank for place in places
        )
    return False


def _sharing(model: nn.Module) -> set[str]:
    """Paths of modules that share a parameter with another."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name.rpartition(".")[0])
    return {path for paths in names.values() if len(paths) > 1 for path in paths}


def _check_in_place(
    graph: fx.Graph, modules: Mapping[str, nn.Module], order: list[fx.Node]
) -> None:
    """What an operation in place has overwritten must not be read again."""
    place = {node: index for index, node in enumerate(graph.nodes)}
    for node in order:
        target = node.target
        name = target if isinstance(target, str) else getattr(target, "__name__", "")
        in_place = (
            getattr(modules.get(str(target)), "inplace", False)
            if node.op == "call_module"
            else node.op != "placeholder"
            and (
                (name.endswith("_") and not name.endswith("__"))
                or (name.startswith("i") and node.op == "call_function" and name in _AUGMENTED)
                or bool(node.kwargs.get("inplace"))
            )
        )
        if in_place and node.all_input_nodes:
            changed = node.all_input_nodes[0]
            if any(place[user] > place[node] for user in changed.users):
                raise RequestError(
                    f"cannot be shrunk: '{node.name}' changes in place what is used again"
                )


_AUGMENTED = ("iadd", "isub", "imul", "itruediv")


def _reached(graph: fx.Graph, model: nn.Module) -> set[str]:
    """Names of the parameters that the output depends on."""
    wanted = {node for node in graph.nodes if node.op == "output"}
    found = set()
    for node in reversed(graph.nodes):
        if node not in wanted:
            continue
        wanted.update(node.all_input_nodes)
        if node.op == "call_module":
            module = model.get_submodule(str(node.target))
            found |= {f"{node.target}.{name}" for name, _ in module.named_parameters()}
        elif node.op == "get_attr":
            found.add(str(node.target))
    return found
