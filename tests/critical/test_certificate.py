"""*Certified* is said only where Theorem 3 holds at every step (DESIGN 4.13)."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from collapse.critical import critical_compression
from collapse.models import build
from collapse.options import Pruning

CERTIFIED = Pruning(schedule="certified")


class _Chain(nn.Module):
    """Four layers with a function in between."""

    def __init__(self, between, shortcut: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = (6, 8, 8, 8, 3)
        self.layers = nn.ModuleList(
            nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes)
        )
        self.between, self.shortcut = between, shortcut

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            beside = self.shortcut * x if number in (1, 2) and self.shortcut else None
            x = self.between(layer(x)) if beside is None else self.between(layer(x)) + beside
        return x


def _evidence(model: nn.Module) -> str:
    return critical_compression(model, [(torch.zeros(1, 6), None)], CERTIFIED).evidence


@pytest.mark.parametrize(
    "between",
    [nn.ReLU(), nn.LeakyReLU(0.1), nn.Identity(), nn.Dropout(0.3), torch.relu, nn.PReLU()],
)
def test_chains_of_homogeneous_functions_are_certified(between) -> None:
    assert _evidence(_Chain(between)) == "certified schedule"


@pytest.mark.parametrize(
    "between",
    [
        *(nn.Softplus(), nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.ELU(), nn.Tanh()),
        lambda x: (x + 0.001).relu(),
        lambda x: (x + 1e-9).relu(),
        lambda x: x.clamp(max=3.0),
        lambda x: x * x.detach().sign(),
    ],
)
def test_what_is_not_homogeneous_is_one_run(between) -> None:
    assert _evidence(_Chain(between)) == "one run"


def test_a_shortcut_of_almost_nothing_is_no_chain() -> None:
    assert _evidence(_Chain(nn.ReLU(), shortcut=1e-4)) == "one run"
    assert _evidence(_Chain(nn.ReLU(), shortcut=1e-12)) == "one run"


@pytest.mark.slow
def test_a_vgg_of_the_papers_is_certified() -> None:
    images = [(torch.zeros(1, 3, 32, 32), None)]
    found = critical_compression(build("vgg11_bn"), images, CERTIFIED)
    assert found.evidence == "certified schedule"


@pytest.mark.slow
def test_a_resnet_of_the_papers_is_one_run() -> None:
    small = [(torch.zeros(1, 3, 8, 8), None)]
    resnet = build("resnet20", input_shape=(3, 8, 8))
    assert critical_compression(resnet, small, CERTIFIED).evidence == "one run"
