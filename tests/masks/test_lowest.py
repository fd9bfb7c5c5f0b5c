"""The lowest survivors, found by a sampled threshold, are those of a sort."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import assume, given
from torch import Tensor

from collapse import masks as masking
from collapse.masks import drop_lowest, in_memory_order, like
from tests import reference
from tests.masks.test_masks import scored


def _without(
    scores: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    places: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
) -> bool:
    """Whether the masks without these places are the expected ones."""
    for name, gone in places.items():
        left = like(masks[name], scores[name]).clone()
        in_memory_order(left)[gone] = False
        if not torch.equal(left, expected[name]):
            return False
    return True


@given(scored())
def test_agrees_with_sorting_everything(
    problem: tuple[dict[str, Tensor], dict[str, Tensor], int],
) -> None:
    scores, masks, keep = problem
    alive = masking.kept(masks)
    assume(0 < alive - keep < alive)
    found = drop_lowest(scores, masks, alive, alive - keep)
    if found is not None:  # else the guess was too low, which costs time and no more
        expected = reference.select(scores, keep, masks)
        assert _without(scores, masks, found[0], expected)
        removed = sum(float(scores[n][masks[n] & ~expected[n]].double().sum()) for n in scores)
        assert found[1] == pytest.approx(removed, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("decimals", [1, 9])
def test_few_of_many_agree_with_sorting_everything(layout: str, decimals: int) -> None:
    """The sampled threshold, on layers larger than the sample, with many ties and with few."""
    draw = torch.Generator().manual_seed(decimals)
    scores = {
        name: torch.rand(shape, generator=draw).pow(scale).mul(10**decimals).round()
        for name, shape, scale in [("a", (64, 32, 3, 3), 1), ("b", (70000,), 3), ("c", (9, 5), 0.1)]
    }
    if layout == "channels_last":
        scores["a"] = scores["a"].contiguous(memory_format=torch.channels_last)
    masks = {name: torch.rand(s.shape, generator=draw) < 0.7 for name, s in scores.items()}
    survivors = masking.kept(masks)
    for drop in (1, 7, survivors // 20, survivors // 2):
        found = drop_lowest(scores, masks, survivors, drop)
        assert found is not None
        expected = reference.select(scores, survivors - drop, masks)
        removed = sum(float(scores[n][masks[n] & ~expected[n]].double().sum()) for n in scores)
        assert found[1] == pytest.approx(removed, rel=1e-12)
        assert _without(scores, masks, found[0], expected)
        lost = {name: int((masks[name] & ~expected[name]).sum()) for name in scores}
        assert {name: len(places) for name, places in found[0].items()} == lost


def test_every_place_alike_is_no_trouble() -> None:
    """Kernels whose corners are low: a sample that hits one corner only would guess wrongly."""
    score = torch.ones(512, 512, 3, 3)
    score[:, :, 0, 0] = torch.rand(512, 512)
    found = drop_lowest(
        {"a": score}, {"a": torch.ones_like(score, dtype=torch.bool)}, 2359296, 1000
    )
    assert found is not None
    assert len(found[0]["a"]) == 1000
    assert bool((found[0]["a"] % 9 == 0).all())


def test_ties_of_a_strided_layer_go_by_index() -> None:
    draw = torch.Generator().manual_seed(0)
    score_ = torch.randint(3, (8, 6, 3, 3), generator=draw).float()
    score_ = score_.contiguous(memory_format=torch.channels_last)
    scores, masks = {"a": score_}, {"a": torch.ones(8, 6, 3, 3, dtype=torch.bool)}
    alive = masking.kept(masks)
    found = drop_lowest(scores, masks, alive, 40)
    assert found is not None
    assert _without(scores, masks, found[0], reference.select(scores, alive - 40, masks))
