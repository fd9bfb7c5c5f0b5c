"""Pruning to an effective density: reached for every score, or said why not."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

from collapse import masks as masking
from collapse.commands import pruning as command
from collapse.connectivity import living
from collapse.errors import RequestError
from collapse.options import PAPER_PRUNERS, Pruning, Setup
from collapse.pruning import prune, prune_to_effective


@pytest.fixture
def wide() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 4))
    )


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 12, generator=draw), torch.arange(8) % 4)]


@pytest.mark.parametrize("allocation", [None, "erk"])
@pytest.mark.parametrize("pruner", PAPER_PRUNERS)
def test_enough_weights_live_and_hardly_more(
    wide: nn.Module, batches, pruner: str, allocation: str | None
) -> None:
    iterations = 5 if pruner == "synflow" else 1
    options = Pruning(pruner, iterations=iterations, allocation=allocation)
    found = prune_to_effective(wide, batches, options, density=0.05, tolerance=0.05)
    total = masking.total(found.pruned.masks)
    goal = math.ceil(0.05 * total)
    alive = masking.kept(living(wide, found.pruned.masks, batches[0][0]))
    assert (found.alive, found.kept) == (alive, masking.kept(found.pruned.masks))
    assert goal <= found.alive <= max(goal * 1.05, goal + 1)
    assert found.effective_density <= found.nominal_density == found.kept / total
    again = prune(wide, batches, options, keep=found.kept)
    assert all(torch.equal(again.masks[name], found.pruned.masks[name]) for name in again.masks)


def test_what_cannot_be_reached_is_said(wide: nn.Module, batches) -> None:
    def attempt(density: float, pruner: str = "magnitude", **options: object) -> None:
        prune_to_effective(wide, batches, Pruning(pruner, **options), density=density)

    for density in (0.0, 1.5):
        with pytest.raises(RequestError, match=f"above 0 and at most 1, got {density:g}$"):
            attempt(density)
    with pytest.raises(RequestError, match="on a linear or exponential schedule"):
        attempt(0.1, "synflow", schedule="certified")
    with pytest.raises(RequestError, match="0.0005 cannot .* magnitude jumps from .* to 0 "):
        attempt(0.0005)
    start = masking.dense(wide)
    start["0.weight"][0] = False  # one of 40 hidden units gets nothing
    with pytest.raises(RequestError, match=r"at most 0.976\d*, for 40 of 2,228 weights"):
        prune_to_effective(wide, batches, Pruning("magnitude"), density=1.0, masks=start)


def test_the_command_shows_both_densities(capsys: pytest.CaptureFixture[str]) -> None:
    setup, options = Setup("fc", init="xavier"), Pruning("random", allocation="erk")
    config = command.Config(setup, options, effective_density=0.01, quiet=True)
    assert command.main(config) == 0
    said = " ".join(capsys.readouterr().out.split())
    found = re.search(r"compression ([\d.]+), effective ([\d.]+)", said)
    nominal, effective = map(float, found.groups())
    assert 98 <= effective <= 100
    assert nominal < effective
    for wrong in ({}, {"effective_density": 0.1, "compression": 10.0}):
        with pytest.raises(RequestError, match="either --compression or --effective-density"):
            command.main(command.Config(setup, options, quiet=True, **wrong))
