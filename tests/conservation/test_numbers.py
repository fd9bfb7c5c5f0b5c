"""The ledger's numbers: residuals, units, sources, slopes, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import linregress
from torch import Tensor, nn

from collapse.conservation import audit, inverse_size_fit, ledger, outside, worst
from collapse.conservation.rows import Row, frame_of
from tests.conservation.traces import traced


def _number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def test_a_learned_slope_adds_no_flow() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.PReLU(), nn.Linear(6, 3))
    trace = traced(model, torch.randn(4, 5), torch.arange(4) % 3, "eval", torch.float64)
    assert float(worst(ledger(trace))["residual"].max()) < 1e-12


def test_an_added_constant_is_outside() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x) + 1.0)

    torch.manual_seed(0)
    trace = traced(Shifted(), torch.randn(4, 5), torch.arange(4) % 3, "eval", torch.float64)
    assert outside(trace)["operation"].tolist() in (["add"], ["__add__"])
    assert float(worst(ledger(trace))["residual"].max()) < 1e-12


def test_a_residual_has_no_sign() -> None:
    row = Row("cut", "here", _number(1.0), _number(3.0), _number(4.0))
    assert frame_of([row])["residual"].tolist() == [0.5]


def test_a_residual_that_is_no_number_is_the_worst() -> None:
    rows = [Row("cut", p, _number(x), _number(0.0), _number(0.0)) for p, x in
            (("a", 1.0), ("b", float("nan")))]  # fmt: skip
    assert worst(frame_of(rows))["place"].tolist() == ["b"]


def test_scores_of_a_small_R_are_compared_in_its_units() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        model[0].weight.mul_(1e-3)
    found = audit(model, (torch.zeros(1, 5).double(), torch.zeros(1, dtype=torch.long)))
    assert found.unit < 1
    assert float(found.ledger["residual"].max()) < 1e-12


def test_slope_and_correlation_by_hand() -> None:
    sizes, sums = {"a": 10, "b": 100, "c": 500}, {"a": 3.0, "b": 5.0, "c": 60.0}
    means = np.log([sums[n] / sizes[n] for n in sizes])
    inverse = np.log([1 / size for size in sizes.values()])
    slope, r = inverse_size_fit(sizes, sums)
    assert slope == pytest.approx(linregress(inverse, means).slope)
    assert r == pytest.approx(np.corrcoef(inverse, means)[0, 1])
    assert abs(r) < 0.98
