"""SynFlow is the score of the network as it is: not homogeneous, negative, in any memory layout."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import SwinTransformer

from collapse import masks as masking
from collapse.errors import RequestError
from collapse.options import Pruning
from collapse.pruning import prune
from collapse.pruning.engines import ENGINES
from collapse.scores import ScoreInputs, fast, score
from collapse.scores.precision import holds
from tests import reference


class _Tokens(nn.Module):
    """Convolution, BatchNorm, tokens: the gradient of the BatchNorm comes in their layout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.mix, self.head = nn.Linear(36, 36), nn.Linear(8, 3)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        return self.head(tokens * self.mix.weight[:, :1]).relu().mean(1)


class _Normalised(nn.Module):
    """A LayerNorm subtracts a mean: R has either sign."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.first(x)))


def _swin() -> nn.Module:
    return SwinTransformer([2, 2], 12, [1, 1], [2, 2], [2, 2], num_classes=5)


MODELS = {
    "tokens": (_Tokens, (3, 8, 8)),
    "normalised": (_Normalised, (6,)),
    "swin": (_swin, (3, 16, 16)),
}


def _problem(name: str, seed: int) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(seed)
    build, shape = MODELS[name]
    return build().double(), [(torch.zeros(1, *shape).double(), torch.zeros(1).long())]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "on-device"])
@pytest.mark.parametrize("name", MODELS)
def test_masks_equal_those_of_plain_autograd(name: str, engine: str, seed: int) -> None:
    model, batches = _problem(name, seed)
    keep = masking.total(masking.dense(model)) // 10
    ours = prune(model, batches, Pruning(iterations=1), keep=keep, engine=engine)
    expected = reference.synflow(model, masking.dense(model), batches, "eval")
    assert all(torch.equal(ours.masks[n], m) for n, m in reference.select(expected, keep).items())
    for layer, scores in expected.items():
        torch.testing.assert_close(ours.scores[layer], scores, rtol=1e-9, atol=1e-12)
    assert ours.scores.precision == "float64"
    assert ours.scores.total == pytest.approx(float(_R(model, batches)), rel=1e-12)


def _R(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """By the naive twin's own forward: the sum of all scores of the last, linear layer."""
    everything = masking.dense(model)
    last = list(everything)[-1]
    return reference.synflow(model, everything, batches, "eval")[last].sum()


def test_the_normalised_network_has_both_signs() -> None:
    signs = {
        score(model, "synflow", masking.dense(model), ScoreInputs(batches)).total > 0
        for model, batches in (_problem("normalised", seed) for seed in range(12))
    }
    assert signs == {True, False}


def test_a_gradient_in_the_layout_of_tokens_is_right_as_in_a_batch_of_two() -> None:
    """What torch alone gets wrong; if it no longer does, the hook may go."""
    norm = nn.BatchNorm2d(4).double().eval()
    x = torch.randn(1, 4, 3, 3).double().requires_grad_()
    gradient = torch.randn(1, 9, 4).double().transpose(1, 2).view(1, 4, 3, 3)
    alone = torch.autograd.grad(norm(x), x, gradient)[0]
    twice = torch.autograd.grad(norm(x.expand(2, 4, 3, 3)), x, gradient.expand(2, 4, 3, 3))[0] / 2
    assert not torch.allclose(alone, twice)


class _Shifted(nn.Module):
    """Forty layers that leave float64's range, and an operation in between."""

    def __init__(self, between: nn.Module, scale: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(40))
        self.between = between
        for layer in self.layers:
            nn.init.constant_(layer.weight, scale)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.between(layer(x))
        return x


@pytest.mark.parametrize("between", [nn.GELU(), nn.Softplus(), nn.SiLU(), nn.Hardswish()])
def test_what_is_not_homogeneous_is_never_rescaled(between: nn.Module) -> None:
    inputs = ScoreInputs([(torch.zeros(1, 2), None)])
    large = _Shifted(between, 1e20)
    name = type(between).__name__
    with pytest.raises(RequestError, match=f"homogeneous networks only: '{name}' in between"):
        score(large, "synflow", masking.dense(large), inputs)
    homogeneous = _Shifted(nn.ReLU(), 1e20)
    scores = score(homogeneous, "synflow", masking.dense(homogeneous), inputs)
    assert scores.precision == "float64 rescaled"


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: x + 0.001,
        lambda x: x + x.shape[1],
        lambda x: torch.cat([x, torch.ones(x.shape)]),
        lambda x: F.pad(x, (0, 0, 0, 1), value=1.0),
        lambda x: x.clamp(max=1.0),
        lambda x: x * x,
        lambda x: x.softmax(1),
        torch.sigmoid,
    ],
)
def test_functions_that_are_not_homogeneous_are_named(forward) -> None:
    class Between(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return forward(x)

    model = nn.Sequential(nn.Linear(3, 3), Between(), _Shifted(nn.Identity(), 1e20))
    model[0] = nn.Linear(3, 2)
    inputs = ScoreInputs([(torch.zeros(2, 3), None)])
    with pytest.raises(RequestError, match="exact for homogeneous networks only"):
        score(model, "synflow", masking.dense(model), inputs)


def test_scored_biases_are_not_rescaled() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(40)))
    for module in model:
        nn.init.constant_(module.weight, 1e20)
    inputs = ScoreInputs([(torch.zeros(1, 2), None)])
    with pytest.raises(RequestError, match="homogeneous networks only: 0.bias is not"):
        score(model, "synflow", masking.dense(model, biases=True), inputs)


def test_the_range_is_symmetric() -> None:
    assert holds(-1.2, torch.float32)
    assert not holds(0.0, torch.float64)
    assert not holds(float("nan"), torch.float64)


def test_the_fast_ways_change_nothing_here() -> None:
    model, batches = _problem("tokens", 0)
    masks = masking.dense(model)
    ours = score(model, "synflow", masks, ScoreInputs(batches))
    with fast.off():
        plain = score(model, "synflow", masks, ScoreInputs(batches))
    assert all(torch.equal(ours[name], plain[name]) for name in masks)
