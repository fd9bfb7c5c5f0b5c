"""All that is planted is found, and nothing is invented."""

from __future__ import annotations

import pytest
import torch

import collapse
from collapse.models import mapped
from tests.doctor import broken_otherwise  # noqa: F401  # adds to them
from tests.doctor.broken import BROKEN


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_planted_is_found_and_nothing_else(name: str) -> None:
    case = BROKEN[name]()
    found = collapse.doctor(case.model, case.example, output=case.output)
    unhealthy = {x.layer: x.verdict for x in found.layers if x.verdict != "healthy"}
    assert unhealthy == case.verdicts
    assert {finding.kind for finding in found.findings} == case.kinds
    assert found.connected == case.connected
    text = str(found)
    for words in case.words:
        assert words in text, text
    layers = {layer.layer: layer for layer in found.layers}
    measured = {key: getattr(layers[key[0]], key[1]) for key in case.counts}
    assert measured == case.counts
    for layer in found.layers:  # each dead weight has one cause
        dead = layer.kept - layer.living
        assert layer.padding_only + layer.no_input + layer.no_output <= dead


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_in_any_precision_the_same_is_found(dtype: torch.dtype) -> None:
    case = BROKEN["one_of_two_halves_left"]()
    single = collapse.doctor(case.model, case.example)
    found = collapse.doctor(case.model.to(dtype), mapped(lambda x, _: x.to(dtype), case.example))
    assert found.findings == single.findings
    constants = [[layer.constant_in for layer in one.layers] for one in (single, found)]
    assert constants == [[0, 4, 3]] * 2


def test_there_are_enough_of_them() -> None:
    assert len(BROKEN) >= 30
