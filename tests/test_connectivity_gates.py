"""Factors that are open without an input, and weights that are standardised by hand.

The truth is a derivative: with random weights and no biases, a weight is alive where the output
changes with it, and the network is connected where it changes with the input.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import collapse
from collapse import masks as masking
from collapse.connectivity import paths


class Gated(nn.Module):
    """Two maps of the input, joined by one rule."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.gate = nn.Linear(5, 6, bias=False), nn.Linear(5, 6, bias=False)
        self.head, self.join = nn.Linear(6, 3, bias=False), join

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.join(self.first(x), self.gate(x)))


class LinearAttention(nn.Module):
    """Katharopoulos et al. 2020: features ``elu + 1``."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(5, 4, bias=False) for _ in range(3))
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.stack((x, x.flip(1), x * x), 1)
        q, k, v = F.elu(self.q(x)) + 1, F.elu(self.k(x)) + 1, self.v(x)
        values = torch.einsum("btd,bte->bde", k, v)
        total = torch.einsum("btd,bd->bt", q, k.sum(1)) + 1e-6
        return self.head((torch.einsum("btd,bde->bte", q, values) / total[..., None]).mean(1))


class SelectiveState(nn.Module):
    """Gu & Dao 2023, small: steps by a softplus, a state that begins at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.into, self.out = (nn.Linear(5, n, bias=False) for n in (5, 3, 3))
        self.decay, self.head = nn.Parameter(-torch.rand(5, 3)), nn.Linear(5, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        state: Tensor | float = 0.0
        y = x.new_zeros(x.shape)
        for now in (x, x.flip(1)):
            step = F.softplus(self.step(now))[..., None]
            state = (
                torch.exp(step * self.decay) * state
                + step * self.into(now)[:, None] * now[..., None]
            )
            y = y + (state * self.out(now)[:, None]).sum(-1)
        return self.head(y)


class Standardised(nn.Module):
    """Weights less their mean, divided by their deviation, as two published networks write it."""

    def __init__(self, at_once: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.head, self.at_once = nn.Linear(6, 3, bias=False), at_once

    def _standard(self, weight: Tensor) -> Tensor:
        if self.at_once:  # Kolesnikov et al. 2020 (BiT), with timm's epsilon
            variance, mean = torch.var_mean(weight, dim=1, keepdim=True, unbiased=False)
            return (weight - mean) / torch.sqrt(variance + 1e-6)
        weight = weight - weight.mean(1, keepdim=True)  # Qiao et al. 2019
        return weight / (weight.std(1, keepdim=True) + 1e-5).expand_as(weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self._standard(self.first.weight)).tanh()
        return self.head(F.linear(x, self._standard(self.second.weight)).tanh())


class Normalised(nn.Module):
    """Weights of length one (a cosine classifier), by torch's function or by hand."""

    def __init__(self, norm: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        # Of equal weights: sizes at which their derivative is zero, not almost.
        self.first, self.head = nn.Linear(6, 8, bias=False), nn.Linear(8, 3, bias=False)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.norm(self.first.weight)).tanh()
        return F.linear(F.normalize(x), self.norm(self.head.weight))


LENGTH_ONE: dict[str, Callable[[], nn.Module]] = {
    "by function": lambda: Normalised(F.normalize),
    "by hand": lambda: Normalised(lambda w: w / w.norm(dim=1, keepdim=True)),
    "by a root": lambda: Normalised(lambda w: w * torch.rsqrt(w.pow(2).sum(1, keepdim=True))),
    "by a reciprocal": lambda: Normalised(lambda w: w * (1 / w.norm(dim=1, keepdim=True))),
    "by a gain": lambda: Normalised(
        lambda w: F.batch_norm(w[None], None, None, 2 * torch.ones(w.shape[1]), training=True)[0]
    ),
    "by variance": lambda: Standardised(True),
    "by deviation": lambda: Standardised(False),
}


@pytest.mark.parametrize("name", LENGTH_ONE)
def test_weights_whose_size_does_not_matter_are_reached(name: str) -> None:
    model = LENGTH_ONE[name]()
    x = torch.zeros(1, model.get_parameter("first.weight").shape[1])
    masks = masking.dense(model)
    alive, connected = paths(model, masks, x)
    assert connected
    assert all(bool(alive[layer].all()) for layer in masks)
    found = collapse.doctor(model, x)
    assert {layer.verdict for layer in found.layers} == {"healthy"}
    assert all(layer.is_cut for layer in found.layers)


def _set(g: Tensor) -> Tensor:
    """As a shift in time is written: values go into a tensor of zeros."""
    into = torch.zeros_like(g)
    into[:, 1:] = g[:, :-1]
    return into


def _copied(g: Tensor) -> Tensor:
    into = torch.zeros_like(g)
    into[:, 1:].copy_(g[:, 1:])
    return into


def _centred(h: Tensor) -> Tensor:
    return h - h.mean(1, keepdim=True)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "set in a tensor of zeros": lambda: Gated(lambda h, g: h + _set(g)),
    "copied into a view": lambda: Gated(lambda h, g: h + _copied(g)),
    "centred by hand": lambda: Gated(lambda h, g: h + _centred(g).relu().mean(1, keepdim=True)),
    "closed": lambda: Gated(lambda h, g: h * g),
    "1 + g": lambda: Gated(lambda h, g: h * (1 + g)),
    "1 - g": lambda: Gated(lambda h, g: (1 - g).unsqueeze(-1).squeeze(-1) * h),
    "1 + tanh": lambda: Gated(lambda h, g: h * (1 + torch.tanh(g))),
    "half a number": lambda: Gated(lambda h, g: torch.mul(torch.tanh(g) / 2 + 0.5, h)),
    "both are open": lambda: Gated(lambda h, g: (1 + h) * (1 + g) - 1),
    "highway": lambda: Gated(lambda h, g: torch.sigmoid(g) * h + (1 - torch.sigmoid(g)) * h**3),
    "softplus": lambda: Gated(lambda h, g: F.softplus(g) * h),
    "exponential": lambda: Gated(lambda h, g: h * torch.exp(g)),
    "a state that begins at zero": lambda: Gated(lambda h, g: torch.exp(h) * 0.0 + h * g),
    "linear attention": LinearAttention,
    "selective state": SelectiveState,
    "standardised by variance": lambda: Standardised(True),
    "standardised by deviation": lambda: Standardised(False),
}


def _truth(model: nn.Module, masks: dict[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    x = torch.randn(64, 5, dtype=torch.float64, requires_grad=True)
    weights = {name: torch.randn_like(p).requires_grad_() for name, p in model.named_parameters()}
    masked = {name: w * masks[name] if name in masks else w for name, w in weights.items()}
    y = torch.func.functional_call(model, masked, (x,))
    if not y.requires_grad:
        return {name: torch.zeros_like(mask) for name, mask in masks.items()}, False
    gradients = torch.autograd.grad(
        y.pow(2).sum() + y.sum(), [x, *(weights[name] for name in masks)], allow_unused=True
    )
    found = [torch.zeros(1) if g is None else g.nan_to_num(0).abs() > 1e-9 for g in gradients]
    pairs = zip(masks.items(), found[1:], strict=True)
    return {name: mask & alive.bool() for (name, mask), alive in pairs}, bool(found[0].any())


@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_derivatives(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().double()
    whole = masking.dense(model)
    cases = [whole, *({**whole, layer: torch.zeros_like(whole[layer])} for layer in whole)]
    cases += [{n: torch.rand(m.shape) < 0.4 for n, m in whole.items()} for _ in range(5)]
    for masks in cases:
        alive, connected = _truth(model, masks)
        found, arrived = paths(model, masks, torch.zeros(1, 5, dtype=torch.float64))
        assert arrived == connected
        if connected:
            assert {n: int((found[n] != alive[n]).sum()) for n in masks} == dict.fromkeys(masks, 0)
