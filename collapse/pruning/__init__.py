"""Score, select, mask: iterated, with a trace."""

from collapse.pruning.engines import Engine, fastest
from collapse.pruning.loop import begin, iterations_of, prune, target
from collapse.pruning.result import PathsExhaustedError, Pruned, Step
from collapse.pruning.steps import Plain, Start

__all__ = [
    "Engine",
    "PathsExhaustedError",
    "Plain",
    "Pruned",
    "Start",
    "Step",
    "begin",
    "fastest",
    "iterations_of",
    "prune",
    "target",
]
