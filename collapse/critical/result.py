"""What a critical search finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Evidence = Literal["closed form", "certified schedule", "one run", "maximum reached", "search"]


@dataclass(frozen=True)
class Point:
    """One compression that was looked at: what it left, layer by layer.

    Attributes:
        kept: parameters kept in each layer.
        alive: those of them on an input→output path; None where that was not asked for.
        scores: the scores that selected the mask: (sum, sum of absolute values) of each layer.
        precision: in which these were computed.
        collapsed: the first layer to have collapsed on the way, None if none did.
        connected: whether a path of kept weights leads from the input to the output; None where
            that was not asked for.
    """

    kept: dict[str, int]
    alive: dict[str, int] | None
    scores: dict[str, tuple[float, float]]
    precision: str
    collapsed: str | None
    connected: bool | None

    @property
    def total(self) -> int:
        """Parameters kept in all layers."""
        return sum(self.kept.values())

    @property
    def effective_total(self) -> int | None:
        """Living parameters in all layers; None if unknown or if a layer has none."""
        if self.alive is None or min(self.alive.values()) == 0:
            return None
        return sum(self.alive.values())


@dataclass(frozen=True)
class Critical:
    """The critical compression of one pruner on one network, and how it is known.

    Attributes:
        sizes: prunable parameters of each layer.
        critical_kept: the fewest parameters that were seen to leave no layer collapsed.
        collapse_kept: the most parameters that were seen to leave a layer collapsed; None if
            nothing collapsed.
        first_collapsed_layer: the first layer to go, at ``collapse_kept``.
        collapsed_is_cut: whether every input→output path crosses that layer, so that the network
            is cut without it; it lies in a branch otherwise. None if nothing collapsed.
        connected_kept: the fewest parameters, at least one a layer, that were seen to leave an
            input→output path; None if there is no such mask (or none was asked for).
        effective_kept: the fewest living parameters with every layer alive; None if there is no
            such mask (or none was asked for).
        evidence: ``search`` found the critical compression by tests, all others prove it:
            ``closed form``; ``certified schedule``, where Theorem 3 holds for every layer; ``one
            run`` of that schedule where it does not (a layer is no cut), which is still exact;
            ``maximum reached``.
        evaluations: prunings run (a scoring for a one-shot pruner).
        iterations: the most iterations that a pruning took.
        points: what was looked at, from the lowest compression to the highest.
        notes: what a reader has to know: a layer that is all zero and decides the verdict, what is
            not counted, which layers the forward never reaches.
    """

    sizes: dict[str, int]
    critical_kept: int
    collapse_kept: int | None
    first_collapsed_layer: str | None
    collapsed_is_cut: bool | None
    connected_kept: int | None
    effective_kept: int | None
    evidence: Evidence
    evaluations: int
    iterations: int
    points: list[Point] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """``N``."""
        return sum(self.sizes.values())

    @property
    def layers(self) -> int:
        """``L``."""
        return len(self.sizes)

    @property
    def maximal_compression(self) -> float:
        """``N / L``: one parameter a layer."""
        return self.parameters / self.layers

    @property
    def critical_compression(self) -> float:
        """The largest compression that was seen to leave no layer collapsed."""
        return self.parameters / self.critical_kept

    @property
    def collapse_compression(self) -> float | None:
        """The smallest compression that was seen to collapse a layer."""
        if self.collapse_kept is None:
            return None
        return self.parameters / self.collapse_kept if self.collapse_kept else float("inf")

    @property
    def monotone(self) -> bool | None:
        """Whether collapse was only seen above the critical compression; None if never seen."""
        return None if self.collapse_kept is None else self.collapse_kept < self.critical_kept

    @property
    def connected_until(self) -> float | None:
        """The largest compression that was seen to leave an input→output path of kept weights."""
        return self.parameters / self.connected_kept if self.connected_kept else None

    @property
    def effective_critical_compression(self) -> float | None:
        """``N`` over the fewest living parameters with every layer alive."""
        return self.parameters / self.effective_kept if self.effective_kept else None

    @property
    def precision(self) -> str:
        """In which the scores were computed that decided the critical compression."""
        near = min(self.points, key=lambda point: abs(point.total - self.critical_kept))
        return near.precision

    @property
    def certified(self) -> bool:
        """Whether Theorem 3 holds for every layer: no layer and no path is lost on the way."""
        return self.evidence == "certified schedule"

    @property
    def proved(self) -> bool:
        """Whether the critical compression is proved, not only tested."""
        return self.evidence != "search"

    @property
    def bracket(self) -> tuple[float, float]:
        """Two compressions that the true critical compression is known to lie between."""
        high = self.critical_compression if self.proved else self.maximal_compression
        return self.critical_compression, high


def fewest_alive(points: Sequence[Point]) -> int | None:
    """The fewest living weights of these points, of those that leave some in each layer."""
    totals = [point.effective_total for point in points]
    return min((total for total in totals if total is not None), default=None)
