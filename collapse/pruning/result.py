"""What a pruning returns: the masks, and how it got there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collapse.errors import RequestError
from collapse.masks import kept
from collapse.models import Masks
from collapse.scores import Scores

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Step:
    """One iteration of pruning.

    Attributes:
        iteration: from 1. Iterations that remove nothing are not scored and leave no step.
        kept: parameters left after it.
        density: kept / total.
        pruned_mass: sum of the scores that it removed.
        cut: ``R``, the mass of every cut before it; None for scores without one. Both are in
            units of ``2**exponent``.
        exponent: see ``Scores``.
        kept_by_layer: parameters left, layer by layer.
        precision: in which the scores were computed.
    """

    iteration: int
    kept: int
    density: float
    pruned_mass: float
    cut: float | None
    exponent: int
    kept_by_layer: dict[str, int]
    precision: str

    @classmethod
    def by(
        cls, scores: Scores, iteration: int, kept: Mapping[str, int], total: int, mass: float
    ) -> Step:
        """The step that removed what these scores ranked lowest.

        Args:
            kept: parameters left, layer by layer.
            total: parameters of the network.
            mass: sum of the scores that were removed.
        """
        left = sum(kept.values())
        return cls(
            *(iteration, left, left / total, mass, scores.total, scores.exponent, dict(kept)),
            scores.precision,
        )


@dataclass(frozen=True)
class Pruned:
    """What ``prune`` returns.

    Attributes:
        masks: boolean, by parameter name.
        steps: how it got there.
        scores: of the last step; empty if there was nothing to prune.
        ranked: what the last step's scores ranked: the survivors, or all where pruned may regrow.
        notes: what is not counted, and which layers the forward never reaches, in words.
    """

    masks: Masks
    steps: list[Step]
    scores: Scores
    ranked: Masks
    notes: tuple[str, ...] = ()

    def trace(self) -> pd.DataFrame:
        """One row an iteration and layer."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "iteration": step.iteration,
                    "kept_total": step.kept,
                    "density_total": step.density,
                    "pruned_mass": step.pruned_mass,
                    "cut": step.cut,
                    "prune_to_cut_ratio": step.pruned_mass / step.cut if step.cut else None,
                    "exponent": step.exponent,
                    "precision": step.precision,
                    "layer": layer,
                    "layer_index": index,
                    "parameters": self.masks[layer].numel(),
                    "kept": count,
                }
                for step in self.steps
                for index, (layer, count) in enumerate(step.kept_by_layer.items(), start=1)
            ]
        )


class PathsExhaustedError(RequestError):
    """No parameter left can be certified to go: each is on every path, or no path is left.

    Attributes:
        pruned: what was reached.
    """

    def __init__(
        self, pruned: Pruned, keep: int, why: str = "each on every input→output path"
    ) -> None:
        super().__init__(
            f"the certified schedule ends at {kept(pruned.masks)} parameters, {why}: cannot keep "
            f"{keep}"
        )
        self.pruned = pruned
