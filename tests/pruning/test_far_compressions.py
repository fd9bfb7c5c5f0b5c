"""Far compressions are scored in float64 from the first iteration on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from collapse import masks as masking
from collapse.models import build
from collapse.options import Pruning
from collapse.pruning import Plain, Pruned, Start, prune
from collapse.pruning.engines import Engine, named
from tests.zoo import Case, _batches


def _pruned(case: Case, keep: int, engine: Engine) -> Pruned:
    return prune(case.model, case.batches, Pruning(iterations=8), keep=keep, engine=engine)


def _in(dtype: torch.dtype | None, engine: str) -> Engine:
    """An engine that computes in this precision whatever the compression."""

    def chosen(start: Start) -> Plain:
        return named(engine)(replace(start, inputs=replace(start.inputs, dtype=dtype)))

    return chosen


def _near_tie() -> Case:
    """Two weights whose scores are one number in float32, and not in float64."""
    model = nn.Sequential(nn.Linear(2000, 1, bias=False), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].weight[0, 5], model[0].weight[0, 9] = 2 - 3 * 2**-23, 2 - 2 * 2**-23
        model[1].weight.fill_(1.5)
    return Case(model, _batches((2000,)))


@pytest.mark.parametrize("engine", ["plain", "live-blocks"])
def test_far_compressions_are_in_float64(engine: str) -> None:
    case = _near_tie()
    far = _pruned(case, 2, named(engine))  # of 2001
    assert {step.precision for step in far.steps} == {"float64"}
    assert far.masks["0.weight"].nonzero().tolist() == [[0, 9]]
    assert {step.precision for step in _pruned(case, 3, named(engine)).steps} == {"float32"}
    narrow = _pruned(case, 2, _in(None, engine))
    assert {step.precision for step in narrow.steps} == {"float32"}
    assert narrow.masks["0.weight"].nonzero().tolist() == [[0, 5]]  # the first of a tie


@pytest.mark.parametrize("engine", ["plain", "live-blocks"])
def test_far_masks_are_those_of_the_model_in_float64(engine: str, case: Case) -> None:
    """From the weights themselves, not from products that float32 has rounded."""
    keep = masking.total(masking.dense(case.model)) // 9
    far = _pruned(case, keep, _in(torch.float64, engine))
    double = prune(
        case.model.double(),
        [(x.double(), y) for x, y in case.batches],
        Pruning(iterations=8),
        keep=keep,
        engine=engine,
    )
    assert [step.precision for step in far.steps] == [step.precision for step in double.steps]
    for name, mask in double.masks.items():
        assert torch.equal(far.masks[name], mask)
        assert torch.equal(far.scores[name], double.scores[name])


@pytest.mark.slow
def test_vgg16_reaches_the_maximum_as_in_float64() -> None:
    """A layer of it collapses where the first iterations are in float32."""
    model = build("vgg16", init="kaiming")
    batch = [(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))]
    result = prune(model, batch, keep=14)
    assert {step.precision for step in result.steps} == {"float64"}
    assert set(masking.kept_by_layer(result.masks).values()) == {1}


def test_the_certified_schedule_goes_on_as_it_is() -> None:
    """A target only shortens its last step, so the precision cannot depend on it."""
    case = _near_tie()
    result = prune(case.model, case.batches, Pruning(schedule="certified"), keep=2)
    assert {step.precision for step in result.steps} == {"float32"}
