"""Small networks, one for each kind of thing that a user's model may hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from collapse.options import PAPER_PRUNERS


class Case(NamedTuple):
    """A model with batches that fit it."""

    model: nn.Module
    batches: list[tuple[Tensor, Tensor]]


def _batches(shape: tuple[int, ...], classes: int = 3, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, *shape, generator=generator).to(dtype), torch.arange(n) % classes)
        for n in (6, 4)
    ]


def _randomise(model: nn.Module) -> nn.Module:
    """Random biases and BatchNorm statistics, so that nothing is zero by initialisation."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, 0, 0.3)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 1.5)
    return model


def mlp() -> Case:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))
    return Case(_randomise(model), _batches((6,)))


def convolutions() -> Case:
    """Plain, grouped, depthwise and strided convolutions, BatchNorm, dropout, max pooling."""
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        *(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False), nn.BatchNorm2d(6)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(6, 3)),
    )
    return Case(_randomise(model), _batches((2, 8, 8)))


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.branch = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.side = nn.Conv2d(4, 2, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.branch(x)
        x = torch.cat([x, self.side(x)], dim=1)
        return self.head(x.mean((2, 3)))


def residual() -> Case:
    return Case(_randomise(_Residual()), _batches((2, 5, 5)))


def one_dimensional() -> Case:
    model = nn.Sequential(
        *(nn.Conv1d(2, 4, 3, dilation=2), nn.LeakyReLU(), nn.MaxPool1d(2)),
        *(nn.ConvTranspose1d(4, 3, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)),
    )
    model(torch.zeros(1, 2, 12))
    return Case(_randomise(model), _batches((2, 12)))


def three_dimensional() -> Case:
    model = nn.Sequential(
        *(nn.Conv3d(1, 3, 2), nn.BatchNorm3d(3), nn.ReLU(), nn.AvgPool3d(2)),
        *(nn.Flatten(), nn.Linear(3 * 8, 3)),
    )
    return Case(_randomise(model), _batches((1, 5, 5, 5)))


class _Shared(nn.Module):
    """The same layer twice, and a second module that holds the first one's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.again = nn.Linear(5, 5)
        self.again.weight = self.first.weight
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = self.first(x).relu()
        return self.head(self.again(x).relu())


def shared() -> Case:
    return Case(_randomise(_Shared()), _batches((5,)))


def frozen() -> Case:
    case = mlp()
    for parameter in case.model[0].parameters():
        parameter.requires_grad = False
    return case


def half() -> Case:
    case = mlp()
    return Case(case.model.half(), _batches((6,), dtype=torch.float16))


def doubles() -> Case:
    case = mlp()
    return Case(case.model.double(), _batches((6,), dtype=torch.float64))


ZOO: dict[str, Callable[[], Case]] = {
    "mlp": mlp,
    "convolutions": convolutions,
    "residual": residual,
    "one_dimensional": one_dimensional,
    "three_dimensional": three_dimensional,
    "shared": shared,
    "frozen": frozen,
    "half": half,
    "doubles": doubles,
}

# For pruners beyond the paper's: a chain of linear maps with biases, and convolutions with
# BatchNorm, a branch that is added and one that is joined. What else the zoo has (layouts, shared
# and frozen weights, half precision) is the business of what all pruners share.
SMALLEST = ("mlp", "residual")


def each(pruners: Iterable[str]) -> list[tuple[str, str]]:
    """Pruner and network: the paper's five on the whole zoo, all others on its smallest networks.

    For ``@pytest.mark.parametrize(("pruner", "case"), each(SCORES), indirect=["case"])``.
    """
    return [
        (pruner, name)
        for pruner in pruners
        for name in (sorted(ZOO) if pruner in PAPER_PRUNERS else SMALLEST)
    ]


def narrow(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A user's factory: two layers on flat inputs, for what has to be a network by name."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(input_shape), 4), nn.ReLU(), nn.Linear(4, classes)
    )
