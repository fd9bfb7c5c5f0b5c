"""No false alarm: small instances of architectures that once raised one, or that are unlike others.

``benchmarks/audit_zoo.py`` audits the registries' own networks, which takes hours.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from timm.layers import ScaledStdConv2d
from timm.models.convit import ConVit
from timm.models.levit import Levit
from timm.models.xcit import Xcit
from torch import Tensor, nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import MBConvConfig

from collapse.conservation import audit
from tests.zoo import _randomise


class Coordinates(nn.Module):
    """Positions as channels (CoordConv), and a positional encoding that is learned linearly."""

    def __init__(self) -> None:
        super().__init__()
        self.position, self.first = nn.Conv2d(2, 4, 1), nn.Conv2d(5, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        line = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"))[None].expand(
            len(x), -1, -1, -1
        )
        x = self.first(torch.cat([x, grid], 1)) + self.position(grid)
        return self.head(x.relu().mean((2, 3)))


class Standardised(nn.Module):
    """Weights standardised by F.batch_norm(training=True), in eval mode too (NF-ResNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = ScaledStdConv2d(3, 6, 3), ScaledStdConv2d(6, 8, 3)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(x).relu()).relu().mean((2, 3)))


class WeightNorm(nn.Conv2d):
    """The weight is a length times a direction."""

    def forward(self, x: Tensor) -> Tensor:
        length = self.weight.flatten(1).norm(dim=1)[:, None, None, None]
        return F.conv2d(x, 0.5 * self.weight / length, self.bias, padding=1)


class Computed(nn.Module):
    """Weights that are computed, and products with a matrix that is a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = WeightNorm(3, 6, 3), WeightNorm(6, 6, 3)
        self.three, self.head = nn.Parameter(torch.randn(6, 8)), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(x).relu()).relu().mean((2, 3))
        return self.head((x @ self.three).relu()) + F.linear(x, self.three[:, :5].t())


class LowRank(nn.Module):
    """Weights that are products of two parameters, one of them square."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((8, 2), (2, 3), (8, 3), (3, 8))
        self.a, self.b, self.c, self.d = (nn.Parameter(torch.randn(*size)) for size in sizes)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x.mean((2, 3)), self.a @ self.b).relu()
        return self.head(F.linear(x, self.c @ self.d).relu())


class SpatialTransformer(nn.Module):
    """Sampled at places that are computed, too."""

    def __init__(self) -> None:
        super().__init__()
        self.where, self.map = nn.Linear(3, 6), nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        to = self.where(x.mean((2, 3))).view(-1, 2, 3)
        grid = F.affine_grid(to, list(x.shape), align_corners=False)
        sampled = F.grid_sample(x, grid, align_corners=False)
        return self.head(self.map(sampled).relu().mean((2, 3)))


class Fourier(nn.Module):
    """Through complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(3, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.fft.fft(self.first(x.mean((2, 3)))).real.relu())


class Masked(nn.Module):
    """Causal attention with scores of −inf."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(3, 24), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)[:, :9]).chunk(3, -1)
        later = torch.ones(9, 9, dtype=torch.bool).triu(1)
        scores = (q @ k.transpose(1, 2)).masked_fill(later, -torch.inf)
        return self.head((scores.softmax(-1) @ v).mean(1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up, self.join = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Conv2d(8, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.down(x).relu()
        deep = self.deep(F.max_pool2d(shallow, 2)).relu()
        return self.join(torch.cat([shallow, self.up(deep)], 1)).mean((2, 3))


class Inception(nn.Module):
    """Four branches, joined; pooling that keeps its size."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.three, self.five = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 3), nn.Conv2d(3, 2, 5)
        self.pool, self.norm, self.head = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(9), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.one(x), self.three(F.pad(x, [1] * 4)), self.five(F.pad(x, [2] * 4))]
        x = torch.cat([*parts, self.pool(F.max_pool2d(x, 3, 1, 1))], 1)
        return self.head(F.relu(self.norm(x), inplace=True).amax((2, 3)))


def _efficientnet() -> nn.Module:
    narrow, wide = (1, 3, 1, 16, 8, 2, 1.0, 1.0), (4, 5, 2, 8, 16, 2, 1.0, 1.0)
    setting = [MBConvConfig(*narrow), MBConvConfig(*wide)]
    return models.EfficientNet(
        setting, 0.2, stochastic_depth_prob=0.5, num_classes=5, last_channel=16
    )


def _convnext() -> nn.Module:
    setting = [CNBlockConfig(8, 12, 2), CNBlockConfig(12, None, 1)]
    return models.ConvNeXt(setting, stochastic_depth_prob=0.5, layer_scale=0.5, num_classes=5)


def _swin() -> nn.Module:
    return models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=5)


def _vit() -> nn.Module:
    model = models.VisionTransformer(32, 8, 2, 2, 16, 24, num_classes=5)
    nn.init.normal_(model.heads.head.weight, 0, 0.3)  # zero by default: no flow at all
    return model


def _xcit() -> nn.Module:
    return Xcit(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, cls_attn_layers=1,
                num_classes=5, eta=0.5)  # fmt: skip


def _levit() -> nn.Module:
    return Levit(img_size=32, embed_dim=(16, 24), key_dim=8, depth=(1, 1), num_heads=(2, 3),
                 num_classes=5)  # fmt: skip


def _convit() -> nn.Module:
    """Its gate is a factor of one attention and a summand of the other."""
    return ConVit(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=5,
                  local_up_to_layer=1)  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "efficientnet, stochastic depth": _efficientnet,
    "convnext, stochastic depth": _convnext,
    "swin": _swin,
    "vit": _vit,
    "xcit": _xcit,
    "levit": _levit,
    "convit": _convit,
    "densenet": lambda: models.DenseNet(4, (2, 2), 8, num_classes=5),
    "shufflenet": lambda: models.ShuffleNetV2([1, 1, 1], [8, 8, 16, 16, 16], num_classes=5),
    "inception": Inception,
    "unet": UNet,
    "coordinates": Coordinates,
    "standardised weights": Standardised,
    "computed weights": Computed,
    "weights of low rank": LowRank,
    "spatial transformer": SpatialTransformer,
    "fourier": Fourier,
    "attention masked with -inf": Masked,
}


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_loss_is_no_false_alarm(name: str, mode: str) -> None:
    torch.manual_seed(0)
    model = _randomise(NETWORKS[name]()).double()
    batch = (torch.randn(3, 3, 32, 32, dtype=torch.float64), torch.arange(3))
    found = audit(model, batch, pruner="snip", mode=mode)
    row = found.ledger.loc[found.ledger["residual"].idxmax()]
    assert row["residual"] < 1e-9, row.to_dict()
    assert found.coverage.scored == set(found.coverage.layers)
    assert not found.coverage.still


HOMOGENEOUS = ("densenet", "shufflenet", "unet", "coordinates")


@pytest.mark.parametrize("name", HOMOGENEOUS)
def test_synflow_is_no_false_alarm(name: str) -> None:
    torch.manual_seed(0)
    model = _randomise(NETWORKS[name]()).double()
    batch = (torch.randn(3, 3, 32, 32, dtype=torch.float64), torch.arange(3))
    assert float(audit(model, batch).ledger["residual"].max()) < 1e-10
