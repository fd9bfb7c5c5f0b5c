"""How much work a search is, and how much of it is done: for displays, within a factor of two."""

from __future__ import annotations

import math
import time
from contextlib import suppress

import torch

from collapse.errors import RequestError
from collapse.models import call, samples, stand_ins, taken, untouched
from collapse.options import Pruning
from collapse.problem import Problem
from collapse.pruning import iterations_of
from collapse.scores import about

# An iteration costs in proportion to what is stored, which is up to six times what is kept: no
# channel dies before. Calls of a nearly empty network cost a twentieth of a dense iteration.
_STORED, _CALLS = 6, 0.05
# Dense iterations of the certified schedule for one between two compressions of a factor e.
_CERTIFIED_STEPS = 6.5
# Forward passes of one sample that ten of a batch take the time of: weights are read once.
_BATCHED = 3
# Bare forward passes that one of a search takes the time of: most are in float64.
_SEARCHED = 3.5
# Forward passes that the search for dead weights takes the time of.
_CONNECTIVITY = 60


def towards(density: float) -> float:
    """Work of an exponential schedule from the dense network to a density, in units of its own.

    Equal steps of ``u = -log density`` cost ``min(1, 6 density)`` each, and the calls.
    """
    u, knee = -math.log(min(max(density, 1e-300), 1.0)), math.log(_STORED)
    return _CALLS * u + (u if u <= knee else knee + 1 - _STORED * math.exp(-u))


def expected(problem: Problem, options: Pruning, scan: int) -> float:
    """A search in forward passes of one sample, about."""
    known, total = about(options.pruner), sum(mask.numel() for mask in problem.start().values())
    count = sum(samples(x) for x, _ in problem.batches) if known.data == "labels" else 1
    scoring = known.passes * (count if count < 2 else count * _BATCHED / 10)
    depth = math.log(max(total / max(len(problem.start()), 1), math.e))
    iterations, certified = iterations_of(options), options.schedule == "certified"
    if not certified and iterations == 1:
        return scoring + _CONNECTIVITY
    prunings = 1 if certified else 1 + scan
    in_each = _CERTIFIED_STEPS if certified else iterations / depth
    return prunings * 2 * scoring * in_each * towards(math.exp(-depth)) + _CONNECTIVITY


def one_pass(problem: Problem) -> float:
    """Seconds that one pass of ``expected`` takes here, from the second of two forward passes."""
    model, one = problem.model, taken(problem.example, slice(0, 1))
    spent = 0.0
    # A forward that fails is met again by scoring, which says so.
    with untouched(model, "eval"), torch.no_grad(), suppress(RequestError):
        tensors = stand_ins(model)
        for _ in range(2):
            start = time.perf_counter()
            call(model, tensors, one, "all")
            spent = time.perf_counter() - start
    return _SEARCHED * spent
