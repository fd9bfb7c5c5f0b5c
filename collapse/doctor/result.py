"""A diagnosis: what was measured, the words on it, and whether that is healthy."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from collapse import tables
from collapse.doctor.advice import advice_on
from collapse.doctor.facts import Facts
from collapse.doctor.findings import Finding, findings_of

if TYPE_CHECKING:
    import pandas as pd

FailOn = Literal["layer", "cut", "warning"]

TABLE = tables.declare(
    "doctor",
    *("model", "input_shape", "layer", "layer_index", "shape", "parameters", "kept", "density"),
    *("living", "units_in", "unreached_in", "constant_in", "units_out", "unreached_out"),
    *("leading_nowhere", "padding_only", "no_input", "no_output", "is_cut", "score_sum", "tied"),
    *("nonfinite", "returned", "verdict"),
)


class Diagnosis(Facts):
    """What an examination found.

    Example:
        >>> import torch
        >>> chain = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
        >>> _ = torch.nn.init.zeros_(chain[1].weight)
        >>> found = collapse.doctor(chain, (2,))
        >>> found.healthy, found.connected, [layer.verdict for layer in found.layers]
        (False, False, ['cut off', 'empty'])
    """

    @cached_property
    def findings(self) -> list[Finding]:
        """What is to be said, the worst first."""
        return findings_of(self)

    @cached_property
    def advice(self) -> list[str]:
        """What to do about it."""
        return advice_on(self, self.findings)

    @property
    def healthy(self) -> bool:
        """No layer is collapsed, a path is there, all numbers are finite, and as was asked for."""
        return not self.fails()

    def fails(self, fail_on: FailOn = "layer") -> bool:
        """Whether a check fails: any collapsed layer, only a cut network, or any warning."""
        counted = {"cut": ("broken",), "layer": ("broken", "collapsed")}.get(
            fail_on, ("broken", "collapsed", "warning")
        )
        return any(finding.severity in counted for finding in self.findings)

    def rows(self) -> list[dict[str, Any]]:
        """One a layer, as in the ``doctor`` table."""
        return [
            {
                **dataclasses.asdict(layer),
                "layer_index": index,
                "shape": "x".join(map(str, layer.shape)),
                "input_shape": "x".join(map(str, self.input_shape)),
                "density": layer.density,
            }
            for index, layer in enumerate(self.layers, start=1)
        ]

    def frame(self, model: str = "") -> pd.DataFrame:
        """The ``doctor`` table: one row a layer."""
        import pandas as pd

        counts = ("units_in", "unreached_in", "constant_in", "units_out", "unreached_out")
        types = dict.fromkeys((*counts, "leading_nowhere", "returned"), "Int64")
        frame = pd.DataFrame(self.rows()).assign(model=model)
        return frame[list(tables.COLUMNS[TABLE])].astype(
            {**types, "is_cut": "boolean", "score_sum": "float64"}
        )

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON-serialisable values; what is infinite is None."""
        numbers = (self.compression, self.effective_compression)
        compression, effective = (x if x < float("inf") else None for x in numbers)
        return {
            "healthy": self.healthy,
            "connected": self.connected,
            "parameters": self.parameters,
            "kept": self.kept,
            "living": self.living,
            "compression": compression,
            "effective_compression": effective,
            "maximal_compression": self.maximal_compression,
            "distance": None if self.distance is None else dataclasses.asdict(self.distance),
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "advice": self.advice,
            "layers": self.rows(),
        }

    def __str__(self) -> str:
        lines = [f"{finding.severity}: {finding.text}" for finding in self.findings]
        return "\n".join([*lines, *self.advice]) or "healthy"
