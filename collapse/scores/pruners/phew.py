"""PHEW, paths with higher edge weights."""

from __future__ import annotations

from torch import nn

from collapse.models import Masks, compute_dtype
from collapse.scores.inputs import ScoreInputs, Scores, dtype_name
from collapse.scores.registry import pruner
from collapse.scores.walks import Steps, visited
from collapse.seeding import generator

ROUNDS = 64


@pruner(data="shape", stateless=True, passes=3 * ROUNDS)
def phew(model: nn.Module, masks: Masks, inputs: ScoreInputs) -> Scores:
    """PHEW: what random walks visit first is kept, ``P(i → j) ∝ |θ_ij|`` (Patil & Dovrolis 2021).

    Walks lead from output units to the input and from input units to the output in turn, from the
    next unit each time; where branches are added a walk takes one. A walk is kept whole, so that
    the network is connected by construction as soon as the first one fits.

    A unit's step is drawn once a round, and all walks of a round share it: they go on together
    where they meet. Rounds have one walk until one has arrived (some drift into padding), then 2,
    2, 4, 4, … What none has visited after the last round follows in the order of exponential
    clocks of rate ``|θ_ij| / Σ_j |θ_ij|``, which is what further rounds would come to. The
    authors walk one by one until enough is visited, from channel to channel whatever the position.

    Example:
        >>> chain = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
        >>> masks = {f"{i}.weight": torch.ones(4, 4).bool() for i in (0, 1)}
        >>> scores = score(chain, "phew", masks, ScoreInputs([(torch.zeros(1, 4), None)]))
        >>> [int((s == s.max()).sum()) for s in scores.values()]  # the first walk
        [1, 1]
    """
    draw, dtype = generator(inputs.seed, "phew walks", inputs.iteration), compute_dtype(model)
    back, forth = Steps.back(model, masks), Steps.forth(model, masks)
    scores = {name: -clocks for name, clocks in back.clocks(draw).items()}
    walks, some = 1, False
    for turn in range(ROUNDS):
        steps = forth if turn % 2 else back
        for name, new in visited(model, steps, walks, inputs, draw).items():
            some = some or bool(new.any())
            scores[name][new & (scores[name] < 0)] = ROUNDS - turn
        walks *= 2 if turn % 2 and some else 1
    return Scores({n: s.to(dtype) for n, s in scores.items()}, precision=dtype_name(dtype))
