"""Forwards that tracing sees otherwise than a user does."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse import masks as masking
from collapse import shrink
from collapse.errors import RequestError


class _Optional(nn.Module):
    """An argument that is None by default, as most library networks have."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 2.0) -> Tensor:
        h = self.first(x).relu() * scale
        if mask is not None:
            h = h * mask
        return self.head(h)


def test_an_argument_that_is_none_stays_none() -> None:
    model, x = _Optional().eval(), torch.randn(4, 6)
    masks = masking.dense(model)
    masks["first.weight"][::2] = False
    with torch.no_grad():
        model.first.bias.zero_()
        small = shrink(model, masks, x)
        assert small.get_submodule("first").out_features == 4
        expected = model.head(F.linear(x, model.first.weight * masks["first.weight"]).relu() * 2)
        assert torch.allclose(small(x), expected, atol=1e-6)


def test_a_forward_that_makes_constants_is_refused_and_left_as_it_was() -> None:
    class Constant(_Optional):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * torch.tensor([2.0]))

    model = Constant()
    names = set(vars(model))
    with pytest.raises(RequestError, match=r"makes a tensor of numbers .* expected a buffer"):
        shrink(model, masking.dense(model), torch.randn(4, 6))
    assert set(vars(model)) == names
    with pytest.raises(RequestError, match="expected a network of one tensor, .* got dict"):
        shrink(_Optional(), masking.dense(_Optional()), {"x": torch.randn(4, 6)})  # type: ignore[arg-type]  # a mistake


@pytest.mark.parametrize("seed", range(5))
def test_constants_folded_into_a_bias_of_single_precision(seed: int) -> None:
    """The sum of constants is rounded to the bias's precision; both networks agree before that."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
    masks = masking.dense(model)
    masks["0.weight"][:8] = False
    small, x = shrink(model, masks, torch.randn(4, 6)), torch.randn(4, 6)
    masking.apply(model, masks)
    assert small.get_submodule("0").out_features == 8
    with torch.no_grad():
        torch.testing.assert_close(small(x), model(x))


class _Tied(nn.Module):
    """An autoencoder with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.embed(x).relu(), self.embed.weight.t())


def test_a_weight_that_is_read_again_keeps_its_size() -> None:
    model, x = _Tied().double(), torch.randn(4, 6).double()
    masks = masking.dense(model)
    masks["embed.weight"][:2] = False
    small = shrink(model, masks, x)
    assert small.get_submodule("embed").out_features == 4
    masking.apply(model, masks)
    torch.testing.assert_close(small(x), model(x))


def test_a_name_of_a_traced_network() -> None:
    model = nn.Sequential()
    model.add_module("code", nn.Linear(6, 4))
    with pytest.raises(RequestError, match="has a 'code' of its own: expected another name"):
        shrink(model, masking.dense(model), torch.randn(4, 6))


class _Sign(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


class _Trained(nn.Module):
    """What training does here, no traced forward shows.

    Args:
        between: what happens to the hidden units.
    """

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head, self.between = nn.Linear(6, 8), nn.Linear(8, 3), between
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self, x))


def _without_gradient(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net.first(x).relu()


def _counted(net: nn.Module, x: Tensor) -> Tensor:
    x = net.first(x).relu()
    net.seen.mul_(0.9).add_(0.1)
    return x


def _dropped(net: nn.Module, x: Tensor) -> Tensor:
    return net.first(x).relu() * (1 if random.random() < 0.5 else 0)


UNSEEN = {
    "gradient of 'first.weight'": [_without_gradient, lambda n, x: _Sign.apply(n.first(x))],
    "writes into the buffer 'seen'": [_counted],
    "away from it in train mode": [_dropped],
}


@pytest.mark.parametrize(
    ("said", "between"), [(said, each) for said, several in UNSEEN.items() for each in several]
)
def test_what_would_be_trained_otherwise_is_refused(
    said: str, between: Callable[[nn.Module, Tensor], Tensor]
) -> None:
    model = _Trained(between)
    masks = masking.dense(model)
    masks["head.weight"][:, ::2] = False
    with pytest.raises(RequestError, match=said):
        shrink(model, masks, torch.zeros(1, 6))


def test_a_hook_on_a_gradient_is_refused_and_a_buffer_that_is_read_is_none() -> None:
    model = _Trained(lambda net, x: net.first(x).relu() - net.seen)
    masks = masking.dense(model)
    masks["head.weight"][:, ::2] = False
    assert shrink(model, masks, torch.zeros(1, 6)).head.in_features == 4
    model.first.weight.register_hook(lambda gradient: 2 * gradient)
    with pytest.raises(RequestError, match="'first.weight' has a hook on its gradient"):
        shrink(model, masks, torch.zeros(1, 6))
