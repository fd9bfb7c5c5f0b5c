"""What is measured of a network as it is: one row a layer, and numbers of the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal[
    "healthy", "empty", "dead", "cut off", "silent", "not reached", "not finite"
]  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """One layer as it is.

    Attributes:
        layer: its name.
        shape, parameters: of the weight.
        kept: weights that are not zero (and not masked).
        living: those of them on an input→output path of kept weights.
        units_in, units_out: of its linear map; None where it is used in an operation that is not
            looked into, as are the next three.
        unreached_in, unreached_out: units of its input and output that no path of kept weights
            from the network's input reaches.
        leading_nowhere: units of its output from which no such path leads to the network's output.
        constant_in: unreached units of its input that are not zero: a bias or a shift feeds them.
        padding_only, no_input, no_output: dead weights by the first cause that applies: they see
            only padding; nothing comes; nothing leads on.
        is_cut: whether every input→output path crosses it; it lies in a branch otherwise, None if
            the input never reaches it.
        verdict: one of seven words (docs/doctor.md); ``healthy`` if nothing is wrong with it.
        score_sum: SynFlow's mass of the network as it is; None where it has none.
        tied: how many kept weights have the commonest magnitude, where that is more than a tenth.
        nonfinite: NaN and infinite weights.
        returned: kept weights that the baseline had pruned; None without a baseline.
    """

    layer: str
    shape: tuple[int, ...]
    parameters: int
    kept: int
    living: int
    is_cut: bool | None
    verdict: Verdict
    units_in: int | None = None
    unreached_in: int | None = None
    constant_in: int | None = None
    units_out: int | None = None
    unreached_out: int | None = None
    leading_nowhere: int | None = None
    padding_only: int = 0
    no_input: int = 0
    no_output: int = 0
    score_sum: float | None = None
    tied: int = 0
    nonfinite: int = 0
    returned: int | None = None

    @property
    def density(self) -> float:
        """kept / parameters; 0 of a layer without any."""
        return self.kept / self.parameters if self.parameters else 0.0

    @property
    def place(self) -> str:
        """In words."""
        return {True: "cut layer", False: "branch", None: "not reached"}[self.is_cut]


@dataclass(frozen=True)
class Distance:
    """How much further a pruner could go from here in one more scoring.

    Attributes:
        pruner: whose scores.
        layer: the layer that it would empty next.
        keep: the fewest weights that it leaves without emptying one.
    """

    pruner: str
    layer: str
    keep: int


@dataclass(frozen=True)
class Facts:
    """The network as it is.

    Attributes:
        layers: one each, in parameter order.
        connected: whether a path of kept weights leads from the input to the output.
        connected_dense: whether one does when everything is kept.
        input_shape: of one input.
        nonfinite: NaN and infinite values by tensor, buffers included.
        silent_norms: normalisations with zero weights, and whether all of each are.
        silenced: whether these zeros, and not the layers', leave no path.
        empty_tables: embeddings without any weight.
        without_gradient: layers whose results the forward takes without their gradient.
        bearing: layers that carry all that passes only because others are gone.
        frontier: where no layer is empty and yet there is no path: the layer that keeps no unit of
            what reaches it, and the one before it.
        distance: to critical; None where there is nothing to lose any more, or nothing to score.
        unscored: why there is no score.
        unmasked: layers that the masks hold no mask of.
        also: what the masks hold that is no layer.
        target: the compression that was asked for.
        baseline: layer by layer, what an earlier state kept.
    """

    layers: list[Layer]
    connected: bool
    connected_dense: bool
    input_shape: tuple[int, ...]
    nonfinite: Mapping[str, int] = field(default_factory=dict)
    silent_norms: Mapping[str, bool] = field(default_factory=dict)
    silenced: bool = False
    empty_tables: Sequence[str] = ()
    without_gradient: Sequence[str] = ()
    bearing: Sequence[str] = ()
    frontier: tuple[str, str] | None = None
    distance: Distance | None = None
    unscored: str = ""
    unmasked: Sequence[str] = ()
    also: Sequence[str] = ()
    target: float | None = None
    baseline: Mapping[str, int] | None = None
    network: str = "--model MODEL"

    @property
    def parameters(self) -> int:
        """``N``: of the layers that the input reaches, as everywhere in this toolkit."""
        return sum(layer.parameters for layer in self.reached)

    @property
    def kept(self) -> int:
        """Weights that are not zero."""
        return sum(layer.kept for layer in self.reached)

    @property
    def living(self) -> int:
        """Those on an input→output path of kept weights."""
        return sum(layer.living for layer in self.reached)

    @property
    def compression(self) -> float:
        """Nominal: parameters / kept, infinite if nothing is."""
        return self.parameters / self.kept if self.kept else float("inf")

    @property
    def effective_compression(self) -> float:
        """parameters / living, infinite if nothing is."""
        return self.parameters / self.living if self.living else float("inf")

    @property
    def reached(self) -> list[Layer]:
        """The layers that the input reaches; all, where no path leads through the whole."""
        if not self.connected_dense:
            return self.layers
        return [layer for layer in self.layers if layer.is_cut is not None]

    @property
    def maximal_compression(self) -> float:
        """``N / L`` over the layers that the input reaches."""
        return sum(layer.parameters for layer in self.reached) / max(1, len(self.reached))

    def named(self, *verdicts: Verdict) -> list[Layer]:
        """The layers of these verdicts."""
        return [layer for layer in self.layers if layer.verdict in verdicts]
