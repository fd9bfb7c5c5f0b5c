"""Why training between prunings avoids collapse: IMP in one, two, three levels (figure 5a)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from analysis.experiments.accuracy import QUICK, rows
from analysis.experiments.shared import given, trained
from analysis.questions.accuracy import TABLE
from analysis.resumable import Trained, runner
from collapse import runs
from collapse.errors import RequestError
from collapse.options import Pruning, Rewinding, Setup, Training


@dataclass(frozen=True)
class Config:
    """Accuracy of IMP's ticket against compression, by the number of levels.

    Attributes:
        pruner: random, magnitude, snip, grasp, synflow, or package.module:function.
        levels: rounds of train, prune, rewind.
        compressions: of the ticket.
        seeds: one run each, of everything random.
    """

    setup: Setup
    training: Training = field(default_factory=Training)
    pruner: str = "magnitude"
    levels: tuple[int, ...] = (1, 2, 3)
    compressions: tuple[float, ...] = tuple(10 ** (i / 10) for i in range(50))
    seeds: tuple[int, ...] = (0,)


_SHORT = Config(
    Setup("fc", init="xavier"),
    replace(QUICK, epochs=5),
    compressions=tuple(10 ** (i / 4) for i in range(4, 8)),
    seeds=(0, 1, 2),
)
PRESETS = {
    "smoke": replace(
        _SHORT,
        training=replace(QUICK, epochs=1),
        levels=(1, 2),
        compressions=(10.0, 1000.0),
        seeds=(0,),
    ),
    "laptop": _SHORT,
    "paper": Config(Setup("vgg11_bn", dataset="cifar10")),
}


def points(config: Config) -> list[Trained]:
    """One of each seed, compression and number of levels."""
    if min(config.levels, default=0) < 1:
        raise RequestError(f"--levels: expected numbers of at least 1, got {config.levels}")
    found = []
    for seed in dict.fromkeys(config.seeds):
        options = Pruning(pruner=config.pruner, seed=seed)
        for compression in given(config.compressions):
            for levels in map(Rewinding, dict.fromkeys(config.levels)):
                run = runs.Experiment(config.setup, options, config.training, levels, compression)
                found.append(trained(TABLE, run, rows))
    return found


run = runner(points, TABLE)
