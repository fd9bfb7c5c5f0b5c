"""Hidden units whose incoming and outgoing parameters are all known.

On these a neuron-wise law can be checked for any numbers a parameter: a user's scores, GraSP's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from collapse.flow.laws import (
    FOLDS,
    UNITWISE,
    carriers,
    fold,
    law,
    layout_of,
    place,
    sources,
    weight_of,
)
from collapse.flow.recorder import Operation, unit_sums, wide
from collapse.flow.trace import Trace


@dataclass(frozen=True)
class Closure:
    """Hidden units whose incoming and outgoing parameters are all known.

    Attributes:
        place: of the units.
        inside: (parameter, layout) whose output units are these; biases and BatchNorm's too.
        outside: (weight, layout) whose input units are these.
        units: how many.
    """

    place: str
    inside: list[tuple[str, dict[str, Any]]]
    outside: list[tuple[str, dict[str, Any]]]
    units: int

    @property
    def weights(self) -> set[str]:
        """Every parameter involved, biases aside."""
        return {name for name, layout in (*self.inside, *self.outside) if layout}

    def inflow(self, values: Mapping[str, Tensor]) -> Tensor:
        """Sum over the parameters into each unit; parameters without a value count as zero."""
        total = self._zeros(values)
        for name, layout in self.inside:
            if name in values:
                value = values[name]
                total = total + (unit_sums(value, **layout)[0] if layout else wide(value))
        return total

    def outflow(self, values: Mapping[str, Tensor]) -> Tensor:
        """Sum over the weights out of each unit."""
        total = self._zeros(values)
        for name, layout in self.outside:
            part = fold(unit_sums(values[name], **layout)[1], self.units)
            assert part is not None
            total = total + part
        return total

    def _zeros(self, values: Mapping[str, Tensor]) -> Tensor:
        device = wide(values[self.outside[0][0]].new_empty(0)).device
        return torch.zeros(self.units, dtype=torch.float64, device=device)


def linear_closures(trace: Trace, *, through_batchnorm: bool) -> list[Closure]:
    """The hidden units between weights with nothing but unit-wise operations in between.

    Args:
        through_batchnorm: also follow units through BatchNorm (exact for scores of an eval-mode
            network without running means); otherwise BatchNorm's own parameters are the incoming
            side of the units behind it.
    """
    uses: dict[str, int] = {}
    for operation in trace.operations:
        for use in operation.uses:
            if use.parameter is not None:
                uses[use.parameter] = uses.get(use.parameter, 0) + 1
    found = []
    for operation in trace.operations:
        weight = weight_of(operation)
        if weight is not None and weight.parameter is not None:
            inside = [(weight.parameter, layout_of(operation))]
            inside += [(b.parameter, {}) for b in sources(operation) if b.parameter is not None]
        elif law(operation) == "batchnorm" and not through_batchnorm:
            inside = [(u.parameter, {}) for u in operation.uses if u.parameter is not None]
        else:
            continue
        if not inside or operation.out_units is None:
            continue
        units = len(operation.out_units)
        outside_ = _weights_behind(trace, operation, units, through_batchnorm)
        if outside_ and all(uses[name] == 1 for name, _ in (*inside, *outside_)):
            found.append(Closure(place(operation), inside, outside_, units))
    return found


def _weights_behind(
    trace: Trace, operation: Operation, units: int, through_batchnorm: bool
) -> list[tuple[str, dict[str, Any]]] | None:
    """The weights that use the units of an operation; None if anything else uses them."""
    found: list[tuple[str, dict[str, Any]]] = []
    for use in operation.outputs:
        if use.consumer is None:
            return None
        consumer = trace.operations[use.consumer]
        weight = weight_of(consumer)
        if weight is not None and weight.parameter is not None and use in carriers(consumer):
            found.append((weight.parameter, layout_of(consumer)))
            continue
        passes = consumer.function in UNITWISE | FOLDS and len(carriers(consumer)) == 1
        if law(consumer) == "batchnorm" and through_batchnorm:
            passes = True
        if not passes or consumer.out_units is None or len(consumer.out_units) % units:
            return None
        behind = _weights_behind(trace, consumer, units, through_batchnorm)
        if behind is None:
            return None
        found += behind
    return found
