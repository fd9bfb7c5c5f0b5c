"""Hidden units whose incoming and outgoing parameters are all known.

On these a neuron-wise law can be checked for any numbers a parameter: a user's scores, GraSP's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from collapse.devices import to_float64
from collapse.flow.laws import biases, carriers, law, layout_of, place, weight_of
from collapse.flow.operations import Operation
from collapse.flow.taps import unit_sums
from collapse.flow.trace import Trace

# By parameter name.
Places = Mapping[str, tuple[Tensor | None, Tensor | None]]


@dataclass(frozen=True)
class Outgoing:
    """A weight that uses hidden units.

    Attributes:
        weight: its name.
        layout: as ``unit_sums`` takes it.
        labels: the hidden unit of each unit of its input; None: one by one.
    """

    weight: str
    layout: dict[str, Any]
    labels: Tensor | None


@dataclass(frozen=True)
class HiddenUnits:
    """Hidden units whose incoming and outgoing parameters are all known.

    Attributes:
        place: of the units.
        inside: (parameter, layout) whose output units are these; biases and BatchNorm's too.
        outside: weights whose input units are these.
        units: how many.
    """

    place: str
    inside: list[tuple[str, dict[str, Any]]]
    outside: list[Outgoing]
    units: int

    @property
    def names(self) -> set[str]:
        """Every parameter involved."""
        return {name for name, _ in self.inside} | {use.weight for use in self.outside}

    @property
    def weights(self) -> set[str]:
        """Every parameter involved, biases aside."""
        return {name for name, layout in self.inside if layout} | {
            use.weight for use in self.outside
        }

    def inflow(self, values: Mapping[str, Tensor], places: Places | None = None) -> Tensor:
        """Sum over the parameters into each unit; parameters without a value count as zero.

        Args:
            places: of parameters of which only a part is given, the output and input units of it.
        """
        total = self._zeros(values)
        for name, layout in self.inside:
            if name in values:
                value = values[name]
                part = unit_sums(value, **layout)[0] if layout else to_float64(value)
                total = _added(total, part, (places or {}).get(name, (None, None))[0])
        return total

    def outflow(self, values: Mapping[str, Tensor], places: Places | None = None) -> Tensor:
        """Sum over the weights out of each unit; as ``inflow``."""
        total = self._zeros(values)
        for use in self.outside:
            if use.weight in values:
                part = unit_sums(values[use.weight], **use.layout)[1]
                units = (places or {}).get(use.weight, (None, None))[1]
                total = _added(total, part, composed(use.labels, units))
        return total

    def _zeros(self, values: Mapping[str, Tensor]) -> Tensor:
        some = next(iter(values.values()), torch.empty(0))
        device = to_float64(some.new_empty(0)).device
        return torch.zeros(self.units, dtype=torch.float64, device=device)


def _added(total: Tensor, part: Tensor, units: Tensor | None) -> Tensor:
    """One number a unit added; without ``units`` one by one."""
    return total + part if units is None else total.index_add(0, units.to(part.device), part)


def hidden_units(trace: Trace, *, through_batchnorm: bool) -> list[HiddenUnits]:
    """The hidden units between weights with nothing but unit-wise operations in between.

    Args:
        through_batchnorm: also follow units through BatchNorm (exact for scores of an eval-mode
            network without running means); otherwise BatchNorm's own parameters are the incoming
            side of the units behind it.
    """
    uses = Counter(use.parameter for operation in trace.operations for use in operation.uses)
    found = []
    for operation in trace.operations:
        weight = weight_of(operation)
        if weight is not None and weight.parameter is not None:
            inside = [(weight.parameter, layout_of(operation))]
            shifts = biases(operation)
        elif law(operation) == "batchnorm" and not through_batchnorm:
            inside = []
            shifts = [use for use in operation.uses if use.learned]
        else:
            continue
        inside += [(use.parameter, {}) for use in shifts if use.parameter is not None]
        if operation.out is None or len(inside) < len(shifts):
            continue
        units = len(operation.out.units)
        outside = _weights_behind(trace, operation, None, through_batchnorm)
        if outside and all(uses[n] == 1 for n in (*dict(inside), *(o.weight for o in outside))):
            found.append(HiddenUnits(place(operation), inside, outside, units))
    return found


def _weights_behind(
    trace: Trace, operation: Operation, labels: Tensor | None, through_batchnorm: bool
) -> list[Outgoing] | None:
    """The weights that use the units of an operation; None if anything else uses them.

    Args:
        labels: the hidden unit of each unit of the operation's result.
    """
    found: list[Outgoing] = []
    for use in operation.outputs:
        if use.consumer is None or not use.aligned:
            return None
        consumer = trace.operations[use.consumer]
        if use not in carriers(consumer):
            return None
        weight = weight_of(consumer)
        if weight is not None and weight.parameter is not None:
            found.append(Outgoing(weight.parameter, layout_of(consumer), labels))
            continue
        if not (consumer.follows or (law(consumer) == "batchnorm" and through_batchnorm)):
            return None
        behind = _weights_behind(
            trace, consumer, composed(labels, consumer.labels), through_batchnorm
        )
        if behind is None:
            return None
        found += behind
    return found


def composed(first: Tensor | None, then: Tensor | None) -> Tensor | None:
    """Labels of labels: ``then`` points into what ``first`` labels; None is one by one."""
    if first is None or then is None:
        return then if first is None else first
    return first[then]
