"""What is recorded of a pass: operations, and each tensor on each use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

INPUT = -1  # the place of the network's input among the operations


@dataclass(frozen=True)
class Flow:
    """Flow by unit.

    Attributes:
        units: ``t ⊙ ∂R/∂t`` summed over everything else, float64 ``[units]`` on the CPU.
        scale: the same of ``|t ⊙ ∂R/∂t|``: ``[units]``, or ``[1]`` for all of them together.
    """

    units: Tensor
    scale: Tensor

    @classmethod
    def none(cls, units: int) -> Flow:
        """No flow at all."""
        zero = torch.zeros(units, dtype=torch.float64)
        return cls(zero, zero)

    def plus(self, other: Flow) -> Flow:
        return Flow(self.units + other.units, self.scale + other.scale)

    def onto(self, labels: Tensor | None, units: int) -> Flow:
        """Summed over the units of one label; None: each is its own."""
        if labels is None:
            return self
        zero = torch.zeros(units, dtype=torch.float64)
        scale = self.scale.expand_as(self.units)
        return Flow(zero.index_add(0, labels, self.units), zero.index_add(0, labels, scale))

    def divided(self, by: float) -> Flow:
        return Flow(self.units / by, self.scale / by)


@dataclass(frozen=True)
class Origin:
    """Where a tensor comes from.

    Attributes:
        operation: the index of the one that made it; ``INPUT`` for the network's input.
        result: which of its results it is.
        axis: the dimension of its units: output channels, features. Each entry along it belongs
            to one unit of the layer that made it; None where a layout change has lost that.
        learned: whether it is made of parameters alone: it prepares a weight and carries no data.
    """

    operation: int
    result: int = 0
    axis: int | None = None
    learned: bool = False


@dataclass(eq=False)
class Use:
    """One tensor on one use by one operation.

    Attributes:
        origin: where the tensor comes from; None for a parameter.
        consumer: index of the operation that uses it; None for the use as the network's output.
        parameter: its name, if the tensor is a parameter.
        slot: which argument of the operation it is: a position or a keyword.
        aligned: whether the units that the consumer reads are those that the producer made.
        by_output: flow by unit of what made it; of a weight, by unit of its output. None until
            the backward, and where no gradient came.
        by_input: flow by unit that the consumer reads; of a weight, by unit of its input.
        gradient: of a parameter of one dimension, ``∂R/∂θ``.
        saliency: of a parameter, ``θ ⊙ ∂R/∂θ`` entry by entry, where that was asked for.
        along: ``⟨∂R/∂t, v⟩`` for a direction v, where the consumer's gradient is tested.
    """

    origin: Origin | None
    consumer: int | None
    parameter: str | None
    slot: int | str
    aligned: bool = False
    by_output: Flow | None = None
    by_input: Flow | None = None
    gradient: Tensor | None = None
    saliency: Tensor | None = None
    along: float | None = None

    @property
    def producer(self) -> int | None:
        """Index of the operation that made the tensor; None for a parameter."""
        return None if self.origin is None else self.origin.operation

    @property
    def learned(self) -> bool:
        """Whether it is a parameter, or made of parameters alone."""
        return self.origin is None or self.origin.learned

    @property
    def total(self) -> float:
        """The flow of the whole tensor."""
        return 0.0 if self.by_output is None else float(self.by_output.units.sum())

    @property
    def scale(self) -> float:
        """The absolute flow of the whole tensor."""
        return 0.0 if self.by_output is None else float(self.by_output.scale.sum())

    def divide(self, by: float) -> None:
        """Bring the notes into units of ``by``."""
        self.by_output = None if self.by_output is None else self.by_output.divided(by)
        self.by_input = None if self.by_input is None else self.by_input.divided(by)
        for name in ("gradient", "saliency", "along"):
            if (value := getattr(self, name)) is not None:
                setattr(self, name, value / by)


@dataclass(eq=False)
class Operation:
    """One recorded operation.

    Attributes:
        index: its place in the order of execution.
        function: its name, e.g. ``conv2d``.
        place: the innermost module that ran it, e.g. ``layer1.0.conv1``.
        uses: of tensors that depend on the input or on parameters.
        outputs: the uses of its results, in order of execution.
        results: each result, with the gradient that all its uses add up to.
        linear: how the weight of a linear map is laid out, as ``unit_sums`` takes it.
        constants: whether a constant other than zero is among what it adds up or joins.
        follows: whether each unit of its only result belongs to one unit of what it carries…
        labels: …and to which; None: to its own.
        norm: what the law of BatchNorm needs to know of the call.
        unfollowed: why its gradient could not be tested, if nothing is known of what it does.
    """

    index: int
    function: str
    place: str
    uses: list[Use] = field(default_factory=list)
    outputs: list[Use] = field(default_factory=list)
    results: list[Use] = field(default_factory=list)
    linear: dict[str, Any] | None = None
    constants: bool = False
    follows: bool = False
    labels: Tensor | None = None
    norm: dict[str, Any] = field(default_factory=dict)
    unfollowed: str | None = None

    @property
    def out_total(self) -> float:
        """Flow of its results, from the gradient that all their uses add up to."""
        return sum(result.total for result in self.results)

    @property
    def out_scale(self) -> float:
        """Absolute flow of its results."""
        return sum(result.scale for result in self.results)

    @property
    def out(self) -> Flow | None:
        """Flow by unit of its only result."""
        return self.results[0].by_output if len(self.results) == 1 else None

    def use(self, slot: int, keyword: str) -> Use | None:
        """The use of one argument, by position or keyword."""
        return next((use for use in self.uses if use.slot in (slot, keyword)), None)
