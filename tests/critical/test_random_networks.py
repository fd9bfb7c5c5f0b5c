"""Random networks against brute force; all 300: ``python -m tests.critical.random_networks``."""

from __future__ import annotations

import pytest

from collapse.critical import search
from tests.critical.random_networks import complaints


@pytest.mark.parametrize("seed", range(4))
def test_critical_results_equal_brute_force(seed: int) -> None:
    wrong, compared = complaints(seed)
    assert wrong == []
    assert set(compared) >= {"critical", "connected until", "search", "certified", "label"}


def test_a_label_without_its_conditions_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "theorem_3_holds", lambda *_: True)
    assert any("label" in line for line in complaints(3)[0])  # a network with a shortcut
