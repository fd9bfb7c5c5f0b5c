"""The leaderboard's kinds of networks an eighth as wide, so that a laptop scores them in a blink.

Depth, branches and normalisation are those of torchvision's; stems are as for 32×32 images.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision.models import mobilenet_v2, resnet, vgg
from torchvision.models.vision_transformer import VisionTransformer

Shape = tuple[int, ...]
NARROWER = 8
_STEM = 64


def vgg16_bn(classes: int, input_shape: Shape) -> nn.Module:
    """Thirteen convolutions with BatchNorm and a head."""
    plan = [w if isinstance(w, str) else w // NARROWER for w in vgg.cfgs["D"]]
    features = vgg.make_layers(plan, batch_norm=True)
    head = nn.Linear(512 // NARROWER, classes)
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


class _Narrow(resnet.ResNet):  # type: ignore[misc]  # torchvision is not typed
    def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        if planes == _STEM:  # the first stage follows a stem that is narrower, too
            self.inplanes = _STEM // NARROWER
        layer: nn.Sequential = super()._make_layer(block, planes // NARROWER, *args, **kwargs)
        return layer


def _residual(block: Any, depths: list[int], classes: int) -> nn.Module:
    model: nn.Module = _Narrow(block, depths)
    model.conv1 = nn.Conv2d(3, _STEM // NARROWER, 3, padding=1, bias=False)
    model.bn1 = nn.BatchNorm2d(_STEM // NARROWER)
    model.fc = nn.Linear(512 // NARROWER * block.expansion, classes)
    return model


def resnet18(classes: int, input_shape: Shape) -> nn.Module:
    """Basic blocks."""
    return _residual(resnet.BasicBlock, [2, 2, 2, 2], classes)


def resnet50(classes: int, input_shape: Shape) -> nn.Module:
    """Bottlenecks."""
    return _residual(resnet.Bottleneck, [3, 4, 6, 3], classes)


def mobilenetv2(classes: int, input_shape: Shape) -> nn.Module:
    """Depthwise convolutions in inverted bottlenecks, at a quarter of the width."""
    model: nn.Module = mobilenet_v2(num_classes=classes, width_mult=0.25)
    return model


def vit(classes: int, input_shape: Shape) -> nn.Module:
    """Four blocks of attention over 16 patches."""
    model: nn.Module = VisionTransformer(
        image_size=input_shape[-1], patch_size=input_shape[-1] // 4, num_layers=4, num_heads=4,
        hidden_dim=64, mlp_dim=128, num_classes=classes,
    )  # fmt: skip
    return model
