"""Union, intersection, difference, and overlap against chance."""

from __future__ import annotations

from fractions import Fraction
from math import comb
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from collapse import masks as masking
from collapse.errors import RequestError

BITS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30)


def _two(bits: list[tuple[bool, bool]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    first, second = (torch.tensor(side) for side in zip(*bits, strict=True))
    return {"a": first}, {"a": second}


@given(BITS)
def test_sets_of_weights(bits: list[tuple[bool, bool]]) -> None:
    a, b = _two(bits)
    assert masking.union(a, b)["a"].tolist() == [x or y for x, y in bits]
    assert masking.intersection(a, b)["a"].tolist() == [x and y for x, y in bits]
    assert masking.difference(a, b)["a"].tolist() == [x and not y for x, y in bits]
    either = masking.kept(masking.union(a, b))
    assert either == masking.kept(masking.intersection(a, b)) + sum(
        masking.kept(masking.difference(*pair)) for pair in ((a, b), (b, a))
    )


@settings(deadline=None)  # the first call imports pandas
@given(BITS)
def test_overlap_is_held_against_the_hypergeometric_distribution(
    bits: list[tuple[bool, bool]],
) -> None:
    a, b = _two(bits)
    (row,) = masking.overlap(a, b).to_dict("records")
    n, kept_a, kept_b = len(bits), sum(x for x, _ in bits), sum(y for _, y in bits)
    ways = {k: comb(kept_a, k) * comb(n - kept_a, kept_b - k) for k in range(kept_b + 1)}
    total = Fraction(comb(n, kept_b))
    mean = sum(k * way for k, way in ways.items()) / total
    variance = sum((k - mean) ** 2 * way for k, way in ways.items()) / total
    assert row["both"] == sum(x and y for x, y in bits)
    assert row["expected_both"] == pytest.approx(float(mean))
    if variance > 0:
        expected = float(row["both"] - mean) / float(variance) ** 0.5
        assert row["deviations"] == pytest.approx(expected, abs=1e-9)
    else:
        assert row["deviations"] != row["deviations"]


def test_three_masks_and_masks_of_different_networks() -> None:
    a, b = _two([(True, False), (False, True), (False, False)])
    c = {"a": torch.tensor([True, True, True])}
    assert masking.kept(masking.union(a, b, c)) == 3
    assert masking.kept(masking.intersection(a, c, c)) == 1
    with pytest.raises(RequestError, match="different networks: the second has no 'a'"):
        masking.union(a, {"b": b["a"]})
    with pytest.raises(RequestError, match="the first has no 'b'"):
        masking.difference(a, {**a, "b": b["a"]})
    with pytest.raises(RequestError, match=r"'a' has shape \(3,\) and \(2,\)"):
        masking.overlap(a, {"a": torch.ones(2).bool()})


def test_counts_and_identity(mlp: nn.Module, tmp_path: Path) -> None:
    frame = masking.count_table(masking.dense(mlp))
    assert frame["parameters"].tolist() == frame["kept"].tolist() == [48, 56, 21]
    identity = masking.weights_identity(mlp)
    masking.save_masks(masking.dense(mlp), tmp_path / "m.safetensors", initial_weights=identity)
    assert masking.about_masks(tmp_path / "m.safetensors")["initial_weights"] == identity
    with torch.no_grad():
        mlp[0].weight[0, 0] += 1
    assert masking.weights_identity(mlp) != identity
