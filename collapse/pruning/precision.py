"""In which precision a pruning is scored: float64 where rounding would decide the verdict."""

from __future__ import annotations

import torch

from collapse.errors import RequestError
from collapse.models import call, cast, samples, stand_ins, taken, untouched
from collapse.options import Pruning
from collapse.problem import Problem
from collapse.scores import about

# Past this compression SynFlow's scores are in float64, from the first iteration on. So little is
# left at the end that single weights decide whether a layer survives, and which ones are left hangs
# on every rounding before: one near-tie decided differently early on changes thousands of weights
# later. VGG-16 kept all its layers at the maximal compression in float64, and lost some where the
# first iterations, down to density 0.3, were in float32: a later switch saves no verdict. Up to it,
# layers are far from empty, and float32 takes half the time.
FLOAT64_ABOVE = 1000
# Floating-point operations that a pruning by data may take in float64. That is 2 to 5 times as slow
# on a CPU, half a minute of one core here; in float32 the order of a sum, which hangs on the number
# of threads and the processor, decides which of two near scores is the higher one.
AFFORDABLE = 8e11


def precision(
    problem: Problem, options: Pruning, total: int, keep: int | None
) -> torch.dtype | None:
    """float64, or None for the model's own.

    Args:
        total: prunable parameters.
        keep: how many are to be left; None where every number is looked at.
    """
    known = about(options.pruner)
    if known.data == "labels":
        return torch.float64 if known.stateless and _affordable(problem, options) else None
    # The certified schedule proves each step as it is, and a target only shortens its last one.
    far = keep and options.schedule != "certified" and total > FLOAT64_ABOVE * keep
    return torch.float64 if far else None


def iterations_of(options: Pruning) -> int:
    """The number of iterations, with the pruner's own for None."""
    return about(options.pruner).iterations if options.iterations is None else options.iterations


def _affordable(problem: Problem, options: Pruning) -> bool:
    count = sum(samples(x) for x, _ in problem.batches)
    passes = about(options.pruner).passes * iterations_of(options)
    return bool(count) and passes * count * operations(problem) <= AFFORDABLE


def operations(problem: Problem) -> float:
    """Of a forward of one sample in float64; infinite where it does not run in it."""
    from torch.utils.flop_counter import FlopCounterMode  # slow to import, and seldom needed

    if problem.device.type == "mps":
        return float("inf")
    one = cast(taken(problem.example, slice(0, 1)), torch.float64)
    counter = FlopCounterMode(display=False)
    with untouched(problem.model, "eval"), torch.no_grad():
        try:
            with counter:
                call(problem.model, stand_ins(problem.model, dtype=torch.float64), one, "all")
        except RequestError:  # whatever it is, scoring meets it again and says so
            return float("inf")
    return float(counter.get_total_flops())
