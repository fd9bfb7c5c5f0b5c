"""Exact counts, ties, nesting, application and files."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from collapse import masks as masking
from collapse.errors import RequestError
from tests import reference
from tests.zoo import Case

# Few distinct values, so that most draws have ties; signed zeros among them.
VALUES = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 1e-30, 3e30])


@st.composite
def scored(draw: st.DrawFn) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Scores of one to four layers, survivors, and a number of survivors to keep."""
    scores, masks = {}, {}
    for index in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, 12))
        scores[f"layer{index}"] = torch.tensor(draw(st.lists(VALUES, min_size=size, max_size=size)))
        masks[f"layer{index}"] = torch.tensor(
            draw(st.lists(st.booleans(), min_size=size, max_size=size))
        )
    return scores, masks, draw(st.integers(0, masking.kept(masks)))


@given(scored())
def test_select_agrees_with_sorting_everything(
    problem: tuple[dict[str, Tensor], dict[str, Tensor], int],
) -> None:
    scores, masks, keep = problem
    before = {name: (s.clone(), masks[name].clone()) for name, s in scores.items()}
    chosen, mass = masking.select_with_mass(scores, keep, masks)
    expected = reference.select(scores, keep, masks)
    removed = 0.0
    for name in scores:
        assert torch.equal(chosen[name], expected[name])
        removed += float(scores[name][masks[name] & ~chosen[name]].double().sum())
        assert torch.equal(scores[name], before[name][0])  # inputs are only read
        assert torch.equal(masks[name], before[name][1])
    assert masking.kept(chosen) == keep
    assert mass == pytest.approx(removed, rel=1e-12, abs=1e-12)


@given(scored(), st.integers(0, 40))
def test_selections_of_one_ranking_are_nested(
    problem: tuple[dict[str, Tensor], dict[str, Tensor], int], more: int
) -> None:
    scores, masks, keep = problem
    wider = min(masking.kept(masks), keep + more)
    small = masking.select(scores, keep, masks=masks)
    large = masking.select(scores, wider, masks=masks)
    assert all(bool((small[name] <= large[name]).all()) for name in scores)


def test_ties_keep_the_first_by_hand() -> None:
    scores = {"a": torch.tensor([0.0, 1.0, 0.0]), "b": torch.tensor([0.0, 1.0, 0.0])}
    kept = masking.select(scores, 4)
    assert kept["a"].tolist() == [True, True, True]
    assert kept["b"].tolist() == [False, True, False]


def test_millions_of_zero_scores_keep_the_exact_count() -> None:
    scores = {"a": torch.zeros(3_000_000), "b": torch.rand(1000) + 1}
    kept = masking.select(scores, 5000)
    assert masking.kept_by_layer(kept) == {"a": 4000, "b": 1000}
    assert bool(kept["a"][:4000].all())


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.data())
def test_apportion_agrees_with_exact_claims(sizes: list[int], data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, sum(sizes)))
    assert masking.apportion(sizes, keep) == reference.apportion(sizes, keep)


@given(st.lists(st.integers(1, 10**8), min_size=1, max_size=8), st.data())
def test_apportion_is_monotone_and_exact_at_any_size(sizes: list[int], data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, sum(sizes)))
    shares, fewer = masking.apportion(sizes, keep), masking.apportion(sizes, keep - 1)
    assert sum(shares) == keep
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    assert all(less <= more for less, more in zip(fewer, shares, strict=True))


@given(scored())
def test_layer_scope_ranks_within_each_layer(
    problem: tuple[dict[str, Tensor], dict[str, Tensor], int],
) -> None:
    scores, _, _ = problem
    keep = sum(score.numel() for score in scores.values()) // 2
    chosen = masking.select(scores, keep, scope="layer")
    shares = reference.apportion([score.numel() for score in scores.values()], keep)
    for (name, score), share in zip(scores.items(), shares, strict=True):
        alone = reference.select({name: score}, share)
        assert torch.equal(chosen[name], alone[name])


def test_layer_scope_of_thinned_masks_has_enough_or_says_so() -> None:
    scores = {"a": torch.rand(10, 10), "b": torch.rand(10, 10)}
    masks = {name: torch.ones(10, 10, dtype=torch.bool) for name in scores}
    masks["b"].view(-1)[20:] = False
    assert masking.kept_by_layer(masking.select(scores, 40, masks=masks, scope="layer")) == {
        "a": 20,
        "b": 20,
    }
    with pytest.raises(RequestError, match="layer 'b' has 20 survivors left: .* share of 30"):
        masking.select(scores, 60, masks=masks, scope="layer")


@given(st.integers(1, 10**10), st.data())
def test_keep_count_inverts_compression(parameters: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, parameters))
    assert masking.keep_count(parameters, parameters / keep) == keep


@given(st.integers(1, 10**8), st.integers(1000, 10**9))
def test_keep_count_is_the_ceiling(parameters: int, thousandths: int) -> None:
    compression = Fraction(thousandths, 1000)
    exact = reference.keep_count(parameters, compression)
    assert masking.keep_count(parameters, float(compression)) == exact


@pytest.mark.parametrize("compression", [0.5, 0, -1, float("nan"), float("inf")])
def test_compression_below_one(compression: float) -> None:
    with pytest.raises(RequestError, match="compression is total / kept: expected a finite"):
        masking.keep_count(100, compression)


def test_wrong_selections() -> None:
    scores = {"a": torch.tensor([1.0, float("nan")]), "b": torch.ones(2)}
    with pytest.raises(RequestError, match="scores of layer 'a' are not finite"):
        masking.select(scores, 1)
    with pytest.raises(RequestError, match="between 0 and 2 survivors, got 3"):
        masking.select({"b": scores["b"]}, 3)
    with pytest.raises(RequestError, match="between 0 and 2, got 3"):
        masking.apportion([1, 1], 3)
    with pytest.raises(RequestError, match="between 0 and 2, got -1"):
        masking.apportion([1, 1], -1)
    with pytest.raises(RequestError, match="keep: expected a whole number, got 1.5"):
        masking.select({"b": scores["b"]}, 1.5)
    with pytest.raises(RequestError, match="scores are empty: expected a tensor a layer"):
        masking.select({}, 0)
    two = torch.ones(2, dtype=torch.bool)
    for wrong, got in ({"a": two}, "none"), ({"b": two[:1]}, r"one of \(1,\)"):
        with pytest.raises(
            RequestError, match=f"'b' have shape .2,.: expected a mask .*, got {got}"
        ):
            masking.select({"b": scores["b"]}, 1, masks=wrong)
    with pytest.raises(RequestError, match="scores of layer 'a' are not finite"):
        masking.first_to_collapse(scores, {"a": two, "b": two})
    # A pruned score is never looked at.
    masks = {"a": torch.tensor([True, False]), "b": two}
    assert masking.kept(masking.select(scores, 1, masks=masks)) == 1
    assert masking.first_to_collapse(scores, masks) == ("b", 2)


def test_of_no_masks_nothing_can_be_said() -> None:
    empty = {"a": torch.zeros(0, dtype=torch.bool)}
    for nothing in (empty, {}):
        with pytest.raises(RequestError, match="masks are empty: expected one mask a layer"):
            masking.density(nothing)
    with pytest.raises(RequestError, match="masks are empty: expected one mask a layer"):
        masking.overlap({}, {})
    assert masking.apportion([0, 0], 0) == [0, 0]


def test_the_order_of_layers_is_no_metadata(tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    with pytest.raises(RequestError, match="metadata 'order' is the layers' own"):
        masking.save_masks({"a": torch.ones(2).bool()}, path, order="a")
    assert not path.exists()


# --- Application and files --------------------------------------------------------------------


def _half(model: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(mask.shape, generator=generator) < 0.5
        for name, mask in masking.dense(model).items()
    }


def test_apply_and_applied(case: Case) -> None:
    masks = _half(case.model)
    before = {name: p.detach().clone() for name, p in case.model.named_parameters()}
    with pytest.raises(RuntimeError, match="inside"), masking.applied(case.model, masks):
        assert masking.density(masks) == masking.kept(masks) / masking.total(masks)
        for name, parameter in case.model.named_parameters():
            expected = before[name] * masks[name] if name in masks else before[name]
            assert torch.equal(parameter, expected)
        raise RuntimeError("inside")
    for name, parameter in case.model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_files_round_trip_with_order(case: Case, tmp_path: Path) -> None:
    masks = _half(case.model)
    path = tmp_path / "new folder" / "masks.safetensors"
    masking.save_masks(masks, path, pruner="none")
    loaded = masking.load_masks(path, case.model)
    assert list(loaded) == list(masks)
    assert all(torch.equal(loaded[name], masks[name]) for name in masks)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_hand_over_to_torch_prune(case: Case) -> None:
    masks = _half(case.model)
    x = case.batches[0][0]
    case.model.eval()
    with masking.applied(case.model, masks), torch.no_grad():
        expected = case.model(x)
    masking.to_torch_prune(case.model, masks)
    with torch.no_grad():
        assert torch.equal(case.model(x), expected)
    holders = [m for m in case.model.modules() if hasattr(m, "weight_mask")]
    assert len(holders) >= len(masks)  # every user of a shared weight has one


def test_wrong_mask_files(mlp: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "masks.safetensors"
    with pytest.raises(RequestError, match="cannot be read"):
        masking.load_masks(path)
    masking.save_masks(_half(mlp), path)
    other = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))
    with pytest.raises(RequestError, match=r"another network: '0\.weight' expected shape \(9, 6\)"):
        masking.load_masks(path, other)
    with pytest.raises(RequestError, match=r"another network: the model has no '0\.weight'"):
        masking.load_masks(path, nn.Bilinear(2, 2, 2))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(RequestError, match="cannot be read"):
        masking.load_masks(path, mlp)
    from safetensors.torch import save_file

    save_file({"0.weight": torch.ones(8, 6)}, path)
    with pytest.raises(RequestError, match="hold no masks: expected boolean"):
        masking.load_masks(path)
    with pytest.raises(RequestError, match="expected masks by name of layer, got str"):
        masking.density("x")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="masks are empty"):
        masking.apply(mlp, {})


settings.register_profile("ci", deadline=None, max_examples=100)
settings.load_profile("ci")


def test_absolute_sums() -> None:
    assert masking.sums({"a": torch.tensor([1.0, -2.0])}) == {"a": (-1.0, 3.0)}


def test_mass_of_the_layer_scope_is_that_of_all_layers() -> None:
    scores = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([4.0, 8.0])}
    masks = {name: torch.ones(2, dtype=torch.bool) for name in scores}
    assert masking.select_with_mass(scores, 2, masks, "layer")[1] == 5.0


def test_a_share_below_its_floor() -> None:
    sizes = [30, 3, 3, 3, 3, 3]
    assert masking.apportion(sizes, 10) == reference.apportion(sizes, 10) == [5, 1, 1, 1, 1, 1]


def test_what_is_no_mask_is_one_line(mlp: nn.Module) -> None:
    masks = masking.dense(mlp)
    for wrong, kind in ((masks["2.weight"].float(), "torch.float32"), (np.ones((7, 8)), "ndarray")):
        with pytest.raises(RequestError, match=f"'2.weight' expected a boolean tensor, got {kind}"):
            masking.apply(mlp, {**masks, "2.weight": wrong})
    with pytest.raises(RequestError, match="masks are empty: expected one mask a layer"):
        masking.density({})
    for wrong in ("10", None, float("nan")):
        with pytest.raises(RequestError, match="expected a finite number from 1 up, got"):
            masking.keep_count(100, wrong)
    assert masking.keep_count(100, np.float32(10)) == masking.keep_count(100, np.int64(10)) == 10
