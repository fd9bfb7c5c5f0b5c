"""Units keep their axis through layout changes, and a position axis never becomes one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from collapse.conservation import ledger
from collapse.flow import hidden_units
from collapse.flow.calls import relabelled
from tests.conservation.traces import assert_balanced, traced
from tests.zoo import _randomise

X = torch.randn(2, 6, 3, 4)


@pytest.mark.parametrize(
    ("move", "axis", "labels"),
    [
        (lambda x: x.flatten(1), 1, [u for u in range(6) for _ in range(12)]),
        (lambda x: x.permute(0, 2, 3, 1), 3, list(range(6))),
        (lambda x: x.flatten(2).transpose(1, 2), 2, list(range(6))),
        (lambda x: x[:, 2:4], 1, [2, 3]),
        (lambda x: x[:, :, 0, 0], 1, list(range(6))),
        (lambda x: x[:, [5, 0, 0]], 1, [5, 0, 0]),
        (lambda x: x.flip(1), 1, [5, 4, 3, 2, 1, 0]),
        (lambda x: x.roll(1, 1), 1, [5, 0, 1, 2, 3, 4]),
        (lambda x: x.unsqueeze(1), 2, list(range(6))),
        (lambda x: x.expand(2, 6, 3, 4), 1, list(range(6))),
        (lambda x: x.reshape(2, 2, 3, 3, 4), None, []),  # spread over two axes
        (lambda x: x.reshape(12, 12), 0, [0, 1, 2, 3, 4, 5] * 2),  # a row a sample and unit
        (lambda x: x.reshape(8, 18), None, []),  # cuts across units
    ],
)
def test_labels_of_moved_units(move, axis: int | None, labels: list[int]) -> None:
    found = relabelled(move, X, 1)
    if axis is None:
        assert found is None
    else:
        assert found is not None
        assert (found[0], found[1].tolist()) == (axis, labels)


class Grouped(nn.Module):
    """Keys of half as many heads, repeated: their positions may be as many as their units."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.v, self.out = nn.Linear(12, width), nn.Linear(2 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        batch, positions, _ = x.shape
        v = self.v(x).view(batch, positions, 2, self.width // 2).transpose(1, 2)
        v = v[:, :, None].expand(batch, 2, 2, positions, self.width // 2)
        v = v.reshape(batch, 4, positions, self.width // 2).transpose(1, 2)
        return self.out(v.reshape(batch, positions, -1)).mean(1)


@pytest.mark.parametrize(("width", "positions"), [(4, 3), (4, 4), (8, 8), (16, 12), (16, 16)])
def test_as_many_positions_as_units(width: int, positions: int) -> None:
    torch.manual_seed(0)
    model = _randomise(Grouped(width))
    table = assert_balanced(traced(model, torch.randn(2, positions, 12), torch.arange(2)))
    assert (table["identity"] == "neuron").sum() == width + 3


def test_a_dense_layer_on_positions_of_a_convolution() -> None:
    """conv → Linear over positions, as many as there are channels: not the same units."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 8, 1), nn.ReLU(), nn.Linear(8, 5), nn.Flatten(), nn.Linear(40, 3)
    )
    trace = traced(_randomise(model), torch.randn(3, 2, 8), torch.arange(3))
    assert_balanced(trace)
    (units,) = hidden_units(trace, through_batchnorm=True)
    assert units.place == "2.weight"  # of the dense layer, once for each channel; not of 0.weight
    assert units.outside[0].labels.tolist() == [0, 1, 2, 3, 4] * 8


def test_units_are_followed_through_a_transposition() -> None:
    """Linear on tokens → transpose → Conv1d: the features are the convolution's channels."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Linear(4, 6), nn.Conv1d(6, 5, 1), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.two(self.one(x).relu().transpose(1, 2)).flip(1).mean(2))

    torch.manual_seed(0)
    trace = traced(_randomise(Tokens()), torch.randn(2, 6, 4), torch.arange(2))
    assert_balanced(trace)
    (units,) = hidden_units(trace, through_batchnorm=True)
    assert (units.place, [use.weight for use in units.outside]) == ("one.weight", ["two.weight"])


def test_a_wrong_axis_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the label of each unit one off, the neurons no longer balance."""
    right = relabelled

    def wrong(run, x, axis):
        found = right(run, x, axis)
        return None if found is None else (found[0], found[1].roll(1))

    monkeypatch.setattr("collapse.flow.journal.relabelled", wrong)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    table = ledger(traced(_randomise(model), torch.randn(3, 2, 4, 4), torch.arange(3)))
    worst = table.loc[table["residual"].idxmax()]
    assert worst["identity"] == "neuron"
    assert worst["residual"] > 1e-3


class Products(nn.Module):
    """Maps that are written as products with a parameter, as some libraries write them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.bias = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6))
        self.two, self.rows = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.randn(3, 5))
        self.batched, self.head = nn.Parameter(torch.randn(3, 5, 5)), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.addmm(self.bias, x, self.one).relu()
        x = (
            torch.addmm(self.rows, x, self.two)
            + torch.addmm(x, x, self.one.t() @ self.one, beta=2)[:, :5]
        )
        return self.head((x[:, None] @ self.batched)[:, 0])


def test_products_with_parameters_are_linear_maps_or_listed() -> None:
    torch.manual_seed(0)
    trace = traced(Products(), torch.randn(3, 4), torch.arange(3))
    table = assert_balanced(trace)
    cuts = set(table.loc[table["identity"] == "cut", "place"])
    assert cuts == {"one", "head.weight"}  # the others have a bias a sample, or a weight a sample
