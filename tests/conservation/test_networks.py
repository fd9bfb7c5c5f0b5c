"""Every identity of DESIGN section 4 on every kind of network, in both modes and precisions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.efficientnet import EfficientNet, MBConvConfig

from collapse.conservation import audit, outside
from collapse.models import build
from collapse.options import PAPER_PRUNERS
from tests.conservation.traces import assert_balanced, half, traced
from tests.snapshot import assert_same, decorate, snapshot
from tests.zoo import ZOO, Case, _randomise


class UShaped(nn.Module):
    """Down, up, a concatenation across, a layer scale, in-place operations on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(2, 4, 3, padding=1)
        self.deep = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.join = nn.Conv2d(10, 3, 3, padding=1)
        self.scale = nn.Parameter(torch.randn(3, 1, 1))
        self.last = nn.ConvTranspose2d(3, 3, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.down(x)
        shallow.relu_()
        deep = self.up(F.relu(self.deep(shallow), inplace=True))
        y = self.join(torch.cat([shallow, deep], 1)) * self.scale
        y = self.last(y)
        y += 0.5 * y
        return y.mean((2, 3))


class DataDependent(nn.Module):
    """A forward that torch.fx cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x).relu()
        for _ in range(int(x.sum() > 0) + 1):
            x = x + self.one(x).relu()
        return self.two(x)


def narrow_efficientnet(classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    """Two of its blocks, with squeeze and excitation, at an eighth of the width."""
    blocks = [MBConvConfig(1, 3, 1, 8, 8, 1, 1.0, 1.0), MBConvConfig(6, 5, 2, 8, 16, 2, 1.0, 1.0)]
    return EfficientNet(blocks, 0.2, num_classes=classes, last_channel=64)


# name → what lies outside the theory
NETWORKS: dict[str, set[str]] = {
    "vgg16_bn": set(),
    "resnet18": set(),
    "torchvision:mobilenet_v2": {"hardtanh"},
    "torchvision:efficientnet_b0": {"silu", "sigmoid", "mul"},
}
NARROW = "analysis.leaderboard.networks"  # their kinds at an eighth of the width
FAST = {
    (f"{NARROW}:vgg16_bn", True): set(),
    (f"{NARROW}:resnet18", False): set(),
    (f"{NARROW}:mobilenetv2", False): {"hardtanh"},
    (f"{__name__}:narrow_efficientnet", True): {"silu", "sigmoid", "mul"},
}


@pytest.mark.parametrize(
    ("name", "masked", "strangers"),
    [
        *((name, masked, strangers) for (name, masked), strangers in FAST.items()),
        *(
            pytest.param(name, masked, strangers, marks=pytest.mark.slow)
            for name, strangers in NETWORKS.items()
            for masked in (False, True)
        ),
    ],
)
def test_networks_balance_in_both_modes_and_precisions(
    name: str, masked: bool, strangers: set[str]
) -> None:
    torch.manual_seed(0)
    model = _randomise(build(name, input_shape=(3, 32, 32)))
    masks = half(model) if masked else None
    x, y = torch.randn(4, 3, 32, 32), torch.arange(4)
    for mode in ("eval", "train"):
        assert_balanced(traced(model, x, y, mode, torch.float64, masks))
    trace = traced(model, x, y, "eval", torch.float32, masks)
    assert_balanced(trace, torch.float32)
    assert set(outside(trace)["operation"]) == strangers


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", [*ZOO, "ushaped", "data_dependent"])
def test_small_networks_balance(name: str, mode: str) -> None:
    torch.manual_seed(0)
    if name == "ushaped":
        case = Case(_randomise(UShaped()), [(torch.randn(3, 2, 8, 8), torch.arange(3))])
    elif name == "data_dependent":
        case = Case(_randomise(DataDependent()), [(torch.randn(4, 5), torch.arange(4) % 3)])
    else:
        case = ZOO[name]()
    x, y = case.batches[0]
    for dtype in (torch.float64, torch.float32):
        table = assert_balanced(traced(case.model, x, y, mode, dtype), dtype)
        assert {"output units", "input units", "neuron", "cut"} <= set(table["identity"])


def test_recording_leaves_the_model_untouched(case: Case) -> None:
    decorate(case.model)
    before = snapshot(case.model)
    for pruner in PAPER_PRUNERS:
        audit(case.model, case.batches[0], pruner=pruner)
    assert_same(before, snapshot(case.model))
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert not torch.nn.modules.module._global_forward_hooks
    assert "forward" not in torch.autograd.function.FunctionMeta.__dict__


def test_batchnorm_without_parameters_is_outside_and_balances() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(5, affine=False)
    norm.running_mean.normal_()
    model = nn.Sequential(nn.Linear(4, 5), norm, nn.ReLU(), nn.Linear(5, 3))
    for mode in ("eval", "train"):
        trace = traced(model, torch.randn(6, 4), torch.arange(6) % 3, mode)
        assert_balanced(trace)
        assert outside(trace)["operation"].tolist() == ["batch_norm"]
