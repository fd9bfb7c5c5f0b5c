"""The smaller network: the traced graph again, with the units that do something."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from collapse.pruning.shrinking.analysis import Analysed, reads_batch_only
from collapse.pruning.shrinking.parts import FullDropout, Picked, Shift, Zeros
from collapse.pruning.shrinking.rules import (
    DROPOUTS,
    Flat,
    Join,
    Map,
    Norm,
    Opaque,
    Product,
    Sum,
    UnitWise,
)

# Below this share of what is there, the units that an operation needs are picked out for it.
PICK_BELOW = 0.5
# By axis of a parameter, the entries that are left; None is all of them.
Places = tuple[Tensor | None, ...]


@dataclass
class Rewriting:
    """Writes the smaller network.

    Attributes:
        places: where each parameter and buffer of a resized module comes from.
        left: the output and input units of each weight.
        values: a parameter or buffer of the masked network, by name.
        unrounded: biases that constants were folded into, in float64.
    """

    analysed: Analysed
    values: Mapping[str, Tensor]
    places: dict[str, Places] = field(default_factory=dict)
    graph: fx.Graph = field(default_factory=fx.Graph)
    modules: dict[str, Any] = field(default_factory=dict)
    written: dict[fx.Node, fx.Node] = field(default_factory=dict)
    units: dict[fx.Node, Tensor | None] = field(default_factory=dict)  # None: all
    copies: dict[int, Any] = field(default_factory=dict)  # deepcopy's memory: keeps what is shared
    entry: fx.Node | None = None
    left: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    shifts: set[fx.Node] = field(default_factory=set)
    unrounded: dict[str, Tensor] = field(default_factory=dict)

    def network(self) -> fx.GraphModule:
        """The smaller network."""
        analysed = self.analysed
        for node in analysed.graph.nodes:
            rule = analysed.rules.get(node)
            if rule is None or node.op in ("placeholder", "get_attr"):
                if node.op == "get_attr" and not analysed.needed.get(node, torch.ones(1)).any():
                    continue
                self._whole(node)
            elif not (analysed.needed[node] & ~analysed.zero[node]).any():
                continue  # nothing reads it, or it is zero
            elif isinstance(rule, Opaque):
                self._whole(node)
            else:
                self._resized(node, rule)
        self._out_of_place()
        network = fx.GraphModule(self.modules, self.graph)
        if network.graph.eliminate_dead_code():  # again, without the tensors that are read no more
            network = fx.GraphModule(self.modules, network.graph)
        return network

    def _out_of_place(self) -> None:
        """No operation overwrites what another one reads: a sum that lost a term is that term."""
        for node in self.graph.nodes:
            if node.target in _AUGMENTED:
                node.target = _AUGMENTED[node.target]
            given = node.all_input_nodes
            if not given or (len(given[0].users) == 1 and given[0].op != "placeholder"):
                continue
            if node.op == "call_module":
                module = self.modules[str(node.target)]
                if getattr(module, "inplace", False):
                    module.inplace = False
            elif node.kwargs.get("inplace"):
                node.kwargs = {**node.kwargs, "inplace": False}
            elif node.op == "call_method" and str(node.target) in ("relu_", "add_", "mul_"):
                node.target = str(node.target)[:-1]

    # --- Whole operations ---------------------------------------------------------------------

    def _whole(self, node: fx.Node) -> None:
        """The operation as it is, on whole inputs."""
        rules = self.analysed.rules

        def given(source: fx.Node) -> fx.Node:
            asks = source in rules and source in self.written
            if asks and reads_batch_only(node, source, rules[source]):
                return self.written[source]
            return self._given_whole(source)

        new = self.graph.node_copy(node, given)
        self.written[node], self.units[node] = new, None
        if node.op == "placeholder" and self.entry is None:
            self.entry = new
        if node.op == "call_module":
            module = self.analysed.modules[str(node.target)]
            self._add(str(node.target), self._copied(module, str(node.target)))
        elif node.op == "get_attr":
            value = self.values[str(node.target)]
            self._add(str(node.target), self._like(value, _attribute(self.analysed, node)))

    def _given_whole(self, source: fx.Node) -> fx.Node:
        if source not in self.analysed.rules:
            return self.written[source]
        axis = self.analysed.axes[source]
        if (axis is None or not self._misses(source)) and source in self.written:
            return self.written[source]
        size = self.analysed.shapes[source][axis or 0]
        return self.arranged(source, torch.arange(size), axis)

    def _misses(self, source: fx.Node) -> bool:
        return source not in self.written or self.units[source] is not None

    def _copied(self, module: nn.Module, path: str) -> nn.Module:
        """A deep copy with the masked weights; what is shared in the model is shared here."""
        new: nn.Module = copy.deepcopy(module, self.copies)
        with torch.no_grad():
            for name, parameter in new.named_parameters():
                parameter.copy_(self.values[f"{path}.{name}"])
                parameter.grad = None
        return new

    def _like(self, value: Tensor, original: Tensor) -> Tensor:
        if not isinstance(original, nn.Parameter):
            return value.clone()
        return nn.Parameter(value.clone(), requires_grad=original.requires_grad)

    def _add(self, path: str, value: Any) -> None:
        self.modules[path] = value

    # --- Resized operations -------------------------------------------------------------------

    def _resized(self, node: fx.Node, rule: Any) -> None:
        wanted = (self.analysed.needed[node] & ~self.analysed.zero[node]).nonzero()[:, 0]
        with self.graph.inserting_after():
            if isinstance(rule, Map):
                self._map(node, rule, wanted)
            elif isinstance(rule, Sum | Product):
                self._elementwise(node, rule, wanted)
            elif isinstance(rule, Join):
                self._join(node, rule)
            elif isinstance(rule, Flat):
                self._flat(node, rule)
            else:
                self._unitwise(node, rule, wanted)

    def arranged(self, source: fx.Node, wanted: Tensor, axis: int | None) -> fx.Node:
        """A tensor's units ``wanted`` in this order; those that were left out are zero."""
        shape = self.analysed.shapes[source]
        if source not in self.written:  # all of it is zero
            sizes = list(shape)
            if axis is not None:
                sizes[axis] = len(wanted)
            assert self.entry is not None
            return self._helper(Zeros(tuple(sizes)), self.entry)
        new, there = self.written[source], self.units[source]
        if axis is None or -axis > len(shape) or shape[axis] == 1:
            return new
        there = torch.arange(shape[axis]) if there is None else there
        if torch.equal(there, wanted):
            return new
        position = torch.full((shape[axis],), -1)
        position[there] = torch.arange(len(there))
        return self._helper(Picked(axis, position[wanted]), new)

    def _helper(self, module: nn.Module, source: fx.Node) -> fx.Node:
        name = f"{type(module).__name__.lower()}_{len(self.modules)}"
        self._add(name, module)
        return self.graph.call_module(name, (source,))

    def _near(self, source: fx.Node, wanted: Tensor, axis: int) -> Tensor:
        """``wanted``, or all units that are there if they are hardly more."""
        if source not in self.written:
            return wanted
        there = self.units[source]
        if there is None:
            there = torch.arange(self.analysed.shapes[source][axis])
        inside = bool(torch.isin(wanted, there).all())
        return there if inside and len(wanted) > PICK_BELOW * len(there) else wanted

    def _unitwise(self, node: fx.Node, rule: UnitWise, wanted: Tensor) -> None:
        source = rule.inputs[0]
        if rule.axis is None:
            return self._whole(node)
        axis = rule.axis if isinstance(rule, Norm) else self.analysed.axes[source]
        assert axis is not None
        wanted = self._near(source, wanted, axis)
        if isinstance(rule, Norm) and self._is_shift(node):
            return self._shift(node, wanted)
        given = self.arranged(source, wanted, axis)
        new = self.graph.node_copy(node, lambda n: given if n is source else self.written[n])
        self.written[node], self.units[node] = new, wanted
        if node.op == "call_module":
            path, module = str(node.target), self.analysed.modules[str(node.target)]
            if isinstance(rule, Norm):
                self._add(path, self._norm(path, module, wanted))
            elif isinstance(module, DROPOUTS) and len(wanted) < rule.size:
                sizes = (rule.size, wanted, axis)
                self._add(path, FullDropout(copy.deepcopy(module, self.copies), *sizes))
            else:
                self._add(path, self._copied(module, path))
        return None

    def _norm(self, path: str, module: nn.Module, units: Tensor) -> nn.Module:
        names = ("weight", "bias", "running_mean", "running_var")
        places = {n: (units,) for n in names if getattr(module, n, None) is not None}
        return self._cut(path, module, places, num_features=len(units))

    def _is_shift(self, node: fx.Node) -> bool:
        """Whether a BatchNorm sees zeros only and is then added to something."""
        rules, shape = self.analysed.rules, self.analysed.shapes[node]
        return node.all_input_nodes[0] not in self.written and all(
            isinstance(rules.get(user), Sum)
            and any(
                self.analysed.shapes[term] == shape and term in self.written.keys() - self.shifts
                for term in rules[user].inputs
                if term is not node
            )
            for user in node.users
        )

    def _shift(self, node: fx.Node, units: Tensor) -> None:
        path, dimensions = str(node.target), len(self.analysed.shapes[node])
        module = self._norm(path, self.analysed.modules[path], units)
        self._add(path, Shift(module, dimensions))
        self.shifts.add(node)
        assert self.entry is not None
        self.written[node] = self.graph.call_module(path, (self.entry,))
        self.units[node] = units

    def _map(self, node: fx.Node, rule: Map, rows: Tensor) -> None:
        source, path, module = rule.inputs[0], str(node.target), rule.module
        groups, per_out, per_in = rule.links.shape
        axis = rule.axis
        assert axis is not None
        if groups == 1:
            rows = self._with_shifts(node, rows)
            used = rule.links[0, rows].any(0)
            used &= ~self._zero_units(source, per_in)
            columns = used.nonzero()[:, 0]
            if not len(columns):  # only its bias is left: one channel of zeros to read
                columns = torch.zeros(1, dtype=torch.long)
            columns = self._near(source, columns, axis)
            places: Places = (rows, columns)
            sizes = {"in": len(columns), "out": len(rows)}
        else:  # a group lives or dies as a whole
            alive = torch.unique(rows // per_out)
            rows = (alive[:, None] * per_out + torch.arange(per_out)).flatten()
            columns = (alive[:, None] * per_in + torch.arange(per_in)).flatten()
            places = (rows, None)
            sizes = {"in": len(columns), "out": len(rows)}
            groups = len(alive)
        self.left[f"{path}.weight"] = rows, columns
        given = self.arranged(source, columns, axis)
        self.written[node] = self.graph.call_module(path, (given,))
        self.units[node] = rows
        if rule.transposed:
            places = (places[1], places[0])
        weight: dict[str, Places] = {"weight": places}
        if module.bias is not None:
            weight["bias"] = (rows,)
        if isinstance(module, nn.Linear):
            names = {"in_features": sizes["in"], "out_features": sizes["out"]}
        else:
            names = {"in_channels": sizes["in"], "out_channels": sizes["out"], "groups": groups}
        new = self._cut(path, module, weight, **names)
        if rule.folded is not None:
            own, like = cast("Tensor | None", new.bias), cast(Tensor, new.weight)
            bias = rule.folded[rows]
            bias = bias if own is None else bias + own.detach().to(bias)
            self.unrounded[f"{path}.bias"] = bias
            learns = (like if own is None else own).requires_grad
            new.bias = nn.Parameter(bias.to(like), requires_grad=learns)
        self._add(path, new)

    def _with_shifts(self, node: fx.Node, rows: Tensor) -> Tensor:
        """Also the rows of zeros that a BatchNorm behind shifts: cheaper than filling them in."""
        users = list(node.users)
        if len(users) == 1 and isinstance(self.analysed.rules.get(users[0]), Norm):
            behind = self.analysed.needed[users[0]] & ~self.analysed.zero[users[0]]
            return behind.nonzero()[:, 0]
        return rows

    def _zero_units(self, source: fx.Node, size: int) -> Tensor:
        zero = self.analysed.zero[source]
        return zero.expand(size) if len(zero) == 1 else zero

    def _cut(
        self, path: str, module: nn.Module, places: Mapping[str, Places], **sizes: int
    ) -> nn.Module:
        """A copy of a module whose tensors keep some entries."""
        new = copy.copy(module)
        new._parameters, new._buffers = dict(module._parameters), dict(module._buffers)
        for name in (*module._parameters, *module._buffers):
            tensor = getattr(module, name)
            if tensor is None:
                continue
            value = self.values[f"{path}.{name}"]
            if name in places:
                self.places[f"{path}.{name}"] = places[name]
                value = gathered(value, places[name])
            value = self._like(value, tensor)
            table: dict[str, Any] = new._parameters if name in module._parameters else new._buffers
            table[name] = value
        for name, size in sizes.items():
            setattr(new, name, size)
        return new

    def _elementwise(self, node: fx.Node, rule: Sum | Product, wanted: Tensor) -> None:
        axis = rule.axis
        if axis is None:
            return self._whole(node)
        shape = self.analysed.shapes[node]
        terms = rule.inputs
        if isinstance(rule, Sum) and node.target not in _SUBTRACTIONS and len(terms) == 2:
            zero = [self._dropped(term, wanted) for term in terms]
            for term, other, gone in zip(terms, reversed(terms), reversed(zero), strict=True):
                if gone and self.analysed.shapes[term] == shape:  # the other adds nothing
                    del other
                    self.written[node] = self.arranged(term, wanted, axis)
                    self.units[node] = wanted
                    return None
        given = {term: self.arranged(term, wanted, axis) for term in terms}
        self.written[node] = self.graph.node_copy(node, lambda n: given[n])
        self.units[node] = wanted
        return None

    def _dropped(self, term: fx.Node, wanted: Tensor) -> bool:
        zero = self.analysed.zero[term]
        return bool(zero.all() if len(zero) == 1 else zero[wanted].all())

    def _join(self, node: fx.Node, rule: Join) -> None:
        start, parts, units = 0, [], []
        live = self.analysed.needed[node] & ~self.analysed.zero[node]
        for part, size in zip(rule.parts, rule.sizes, strict=True):
            wanted = live[start : start + size].nonzero()[:, 0]
            if len(wanted):
                assert rule.axis is not None
                wanted = self._near(part, wanted, rule.axis)
                parts.append(self.arranged(part, wanted, rule.axis))
                units.append(wanted + start)
            start += size
        self.written[node] = self.graph.call_function(torch.cat, (parts,), {"dim": rule.axis})
        self.units[node] = torch.cat(units)

    def _flat(self, node: fx.Node, rule: Flat) -> None:
        source = rule.inputs[0]
        there = self.units[source]
        if there is None:
            there = torch.arange(self.analysed.shapes[source][1])
        self.written[node] = self.graph.call_function(torch.flatten, (self.written[source], 1))
        places = there[:, None] * rule.positions + torch.arange(rule.positions)
        self.units[node] = places.flatten()


_SUBTRACTIONS = frozenset({torch.sub, Tensor.sub, "sub", operator.sub})
_AUGMENTED: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.imul: operator.mul,
    operator.isub: operator.sub,
}


def gathered(value: Tensor, places: Places) -> Tensor:
    """The entries of a tensor at some places of each axis."""
    for axis, index in enumerate(places):
        if index is not None:
            value = value.index_select(axis, index.to(value.device))
    return value


def _attribute(analysed: Analysed, node: fx.Node) -> Tensor:
    path, _, name = str(node.target).rpartition(".")
    found: Tensor = getattr(analysed.modules[path], name)
    return found
