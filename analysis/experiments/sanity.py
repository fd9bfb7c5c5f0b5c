"""Which weights, or how many in each layer: what carries a mask's accuracy? (question 8)"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.experiments.study import HASTY, PAPER, TINY, Study, outcome
from analysis.questions.outcomes import TABLE
from analysis.resumable import Trained, runner
from collapse.options import CONTROLS, Control, Training


@dataclass(frozen=True)
class Config(Study):
    """Each mask beside its controls (Frankle et al. 2021).

    Attributes:
        controls: shuffled, reinitialised, inverted.
    """

    pruners: tuple[str, ...] = ("magnitude", "snip", "grasp", "synflow")
    controls: tuple[Control, ...] = CONTROLS


PRESETS = {
    "smoke": Config(TINY, HASTY, ("magnitude", "synflow"), (10.0,), seeds=(0, 1, 2)),
    "laptop": Config(),
    "paper": Config(PAPER, Training(), compressions=(10.0, 100.0, 1000.0)),
}


def points(config: Config) -> list[Trained]:
    """One of each seed, compression, pruner and control, and as it is."""
    controls: list[Control | None] = [None, *dict.fromkeys(config.controls)]
    return [
        outcome(config.experiment(*one, control=control))
        for one in config.each()
        for control in controls
    ]


run = runner(points, TABLE)
