"""Score, select, mask: iterated, with a trace."""

from collapse.pruning.loop import (
    Known,
    PathsExhaustedError,
    Pruned,
    Step,
    iterations_of,
    prune,
    target,
)

__all__ = ["Known", "PathsExhaustedError", "Pruned", "Step", "iterations_of", "prune", "target"]
