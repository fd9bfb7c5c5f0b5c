"""The fewest weights of a ranking that leave a path: the same as by trying, in few passes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from collapse import masks as masking
from collapse.connectivity import paths
from collapse.critical import critical_compression, family
from collapse.critical.prefixes import Prefixes, fewest
from collapse.models import Masks
from collapse.options import Pruning

EXAMPLE = torch.zeros(1, 8)


def _deep(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, width)),
        *(nn.Linear(width, width), nn.Linear(width, 2)),
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_fewest_are_those_found_by_trying_every_number(seed: int) -> None:
    model = _deep(6)
    draw = torch.Generator().manual_seed(seed)
    start = masking.dense(model)
    # Rounded, so that there are ties.
    scores = {n: torch.rand(m.shape, generator=draw).mul_(40).floor_() for n, m in start.items()}

    prefixes = Prefixes(scores, start)
    looks = 0

    def look(keep: int) -> tuple[bool, Masks]:
        nonlocal looks
        looks += 1
        alive, arrives = paths(model, prefixes.masks(keep), EXAMPLE)
        return arrives, alive

    total = masking.kept(start)
    by_trial = next(keep for keep in range(1, total + 1) if look(keep)[0])
    for low in (1, by_trial - 1, by_trial):
        looks = 0
        assert fewest(look, prefixes, low, total) == by_trial
        assert looks <= (12 if low == 1 else 10)


def test_what_is_in_order_is_what_selection_keeps_through_ties() -> None:
    scores = {"a": torch.tensor([[1.0, 3.0], [2.0, 3.0]]), "b": torch.tensor([3.0, 2.0, 0.0])}
    start = {"a": torch.ones(2, 2).bool(), "b": torch.tensor([True, True, False])}
    prefixes = Prefixes(scores, start)
    for ordered in (3, 5):
        prefixes.sort(ordered)
        for keep in range(6):
            masks = prefixes.masks(keep)
            expected = masking.select(scores, keep, masks=start)
            assert all(torch.equal(masks[name], mask) for name, mask in expected.items())
            assert list(prefixes.ranks(masks)) == list(range(1, min(keep, ordered) + 1))


def test_a_one_shot_row_takes_few_passes_over_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = 0

    def counted(*args, **options):
        nonlocal passes
        passes += 1
        return paths(*args, **options)

    monkeypatch.setattr(family, "paths", counted)
    batches = [(EXAMPLE, torch.zeros(1, dtype=torch.long))]
    result = critical_compression(_deep(64), batches, Pruning(pruner="random"))
    # Bisection over 13,000 numbers to keep takes some 20 for each of the two answers.
    assert result.connected_kept == result.critical_kept
    assert passes <= 7
    passes = 0
    result = critical_compression(_deep(64), batches, Pruning(pruner="magnitude"))
    assert result.connected_kept is not None
    assert result.connected_kept > result.critical_kept
    assert passes <= 16
