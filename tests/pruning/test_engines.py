"""One contract for every engine: the steps and masks of the definition, and of the naive twin."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from collapse import masks as masking
from collapse.errors import RequestError
from collapse.options import PAPER_PRUNERS, Pruning
from collapse.pruning import Pruned, Step, prune
from collapse.pruning.engines import ENGINES, FASTER, Engine
from collapse.pruning.live_blocks import LiveBlocks
from collapse.scores.fast.positions import PositionClasses
from tests import reference
from tests.zoo import Case, each

# Whatever can be cut down is, so that small networks show what large ones do.
ALL: dict[str, str | Engine] = {
    **{name: name for name in ENGINES},
    "live-blocks": partial(
        LiveBlocks, shrink_below=1.0, places=partial(PositionClasses, 1.0, least=0)
    ),
}
# What an engine does with scores does not hang on which they are, but for those that regrow.
SCORED = (*PAPER_PRUNERS, "force")
CAN = {
    "plain": [*itertools.product(SCORED, ["global", "layer"], ["exponential", "linear"])],
    "live-blocks": [*itertools.product(["synflow"], ["global", "layer"], ["exponential"])],
    "on-device": [("synflow", "global", "exponential"), ("synflow", "global", "linear")],
}
COMBINATIONS = [
    (engine, *options, case)
    for engine, taken in CAN.items()
    for options in taken
    for _, case in each(options[:1])
]


def _keep(case: Case) -> int:
    return max(1, masking.total(masking.dense(case.model)) // 9)


def _by_twin(case: Case, pruner: str, keep: int, iterations: int) -> dict[str, Tensor]:
    masks = masking.dense(case.model)
    total = masking.total(masks)
    dense = masks
    for i in range(1, iterations + 1):
        scores = reference.SCORES[pruner](case.model, masks, case.batches, "eval")
        goal = keep if i == iterations else math.ceil(total * (keep / total) ** (i / iterations))
        masks = reference.select(scores, goal, dense if pruner == "force" else masks)
    return masks


def _assert_same(ours: Pruned, definition: Pruned, rtol: float) -> None:
    assert list(ours.masks) == list(definition.masks)
    for name, mask in definition.masks.items():
        assert torch.equal(ours.masks[name], mask)
        assert ours.masks[name].is_contiguous()
        assert torch.equal(ours.ranked[name], definition.ranked[name])
        assert torch.equal(ours.scores[name] == 0, definition.scores[name] == 0)  # dead is 0
        torch.testing.assert_close(
            ours.scores[name], definition.scores[name], rtol=rtol, atol=0, check_dtype=True
        )
    assert len(ours.steps) == len(definition.steps)
    for one, other in zip(ours.steps, definition.steps, strict=True):
        assert (one.iteration, one.kept, one.kept_by_layer, one.precision, one.exponent) == (
            *(other.iteration, other.kept, other.kept_by_layer, other.precision, other.exponent),
        )
        assert one.density == other.density
        assert one.pruned_mass == pytest.approx(other.pruned_mass, rel=max(rtol, 1e-12))
        assert one.cut is other.cut or one.cut == pytest.approx(other.cut, rel=max(rtol, 1e-12))


# In 300 iterations single weights in series are left, whose equal scores rounding tells apart:
# on blocks the sums have another order, in a queue they have the definition's.
@pytest.mark.parametrize(
    ("engine", "iterations"),
    [*itertools.product(FASTER, [1, 8]), ("on-device", 300)],
)
def test_equals_the_definition_in_float64(engine: str, iterations: int, case: Case) -> None:
    case.model.double()
    options, keep = Pruning(iterations=iterations), _keep(case)
    definition = prune(case.model, case.batches, options, keep=keep, engine="plain")
    ours = prune(case.model, case.batches, options, keep=keep, engine=ALL[engine])
    _assert_same(ours, definition, rtol=1e-11)


@pytest.mark.parametrize(
    ("engine", "pruner", "case"),
    [(e, *pair) for e in ENGINES for pair in each(SCORED[1:] if e == "plain" else ["synflow"])],
    indirect=["case"],
)
def test_equals_the_naive_twin(engine: str, pruner: str, case: Case) -> None:
    case.model.double()
    batches = [(x.double(), y) for x, y in case.batches]
    keep = _keep(case)
    options = Pruning(pruner=pruner, iterations=5, mode="eval")
    ours = prune(case.model, batches, options, keep=keep, engine=ALL[engine])
    expected = _by_twin(Case(case.model, batches), pruner, keep, 5)
    assert all(torch.equal(ours.masks[name], mask) for name, mask in expected.items())


@pytest.mark.parametrize(
    ("engine", "pruner", "scope", "schedule", "case"), COMBINATIONS, indirect=["case"]
)
def test_exact_and_monotone_in_every_iteration(
    engine: str, pruner: str, scope: str, schedule: str, case: Case
) -> None:
    total = masking.total(masking.dense(case.model))
    keep = max(len(masking.dense(case.model)), total // 7)
    options = Pruning(pruner=pruner, iterations=4, schedule=schedule, scope=scope, mode="eval")
    result = prune(case.model, case.batches, options, keep=keep, engine=ALL[engine])
    assert masking.kept(result.masks) == keep
    before = None
    for step in result.steps:
        assert sum(step.kept_by_layer.values()) == step.kept
        assert step.density == step.kept / total
        if before is not None and pruner != "force":  # pruned stays pruned: no layer ever grows
            assert all(step.kept_by_layer[n] <= before[n] for n in before)
        before = step.kept_by_layer
    assert all(bool((result.masks[n] <= result.ranked[n]).all()) for n in result.masks)


@pytest.mark.parametrize("engine", ENGINES)
def test_ties_and_masks_to_start_from(engine: str) -> None:
    model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 10))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    batches = [(torch.zeros(1, 30), torch.zeros(1, dtype=torch.long))]
    start = prune(model, batches, Pruning(pruner="random", iterations=1), compression=2).masks
    masks = start
    for keep in (150, 90, 37):
        scores = reference.synflow(model, masks, batches, "eval")
        masks = reference.select(scores, keep, masks)
    ours = start
    for keep in (150, 90, 37):
        options = Pruning(iterations=1)
        ours = prune(model, batches, options, keep=keep, masks=ours, engine=ALL[engine]).masks
    assert all(torch.equal(ours[name], mask) for name, mask in masks.items())


@pytest.mark.parametrize("engine", FASTER)
def test_a_pruning_may_be_left_at_any_step(engine: str, case: Case) -> None:
    def third(step: Step) -> bool:
        return step.iteration >= 3

    case.model.double()
    options, keep = Pruning(iterations=8), _keep(case)
    definition, ours = (
        prune(case.model, case.batches, options, keep=keep, on_step=third, engine=by)
        for by in ("plain", ALL[engine])
    )
    assert len(ours.steps) == 3
    _assert_same(ours, definition, rtol=1e-11)


@pytest.mark.parametrize("engine", ["plain", "live-blocks"])
def test_the_certified_schedule_in_every_engine_that_takes_it(engine: str, case: Case) -> None:
    case.model.double()
    options = Pruning(schedule="certified")
    keep = masking.total(masking.dense(case.model)) // 5
    definition = prune(case.model, case.batches, options, keep=keep, engine="plain")
    ours = prune(case.model, case.batches, options, keep=keep, engine=ALL[engine])
    _assert_same(ours, definition, rtol=1e-11)


def test_what_an_engine_cannot_compute(mlp: nn.Module) -> None:
    batches = [(torch.zeros(1, 6), torch.zeros(1, dtype=torch.long))]
    with pytest.raises(RequestError, match="unknown engine 'plane'; nearest: plain"):
        prune(mlp, batches, compression=5, engine="plane")
    with pytest.raises(RequestError, match="'live-blocks' cannot compute magnitude here"):
        prune(mlp, batches, Pruning("magnitude"), compression=5, engine="live-blocks")
    for options in (Pruning(scope="layer"), Pruning(schedule="certified")):
        with pytest.raises(RequestError, match="'on-device' cannot compute synflow here"):
            prune(mlp, batches, options, compression=5, engine="on-device")
