"""The paper's VGGs and ResNets, from torchvision's own builders with another stem or head.

``vgg.make_layers``, ``resnet.ResNet`` and its ``BasicBlock`` do the building; the input's height
chooses the form: 32×32, 64×64, or torchvision's own from 128 up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torchvision import models
from torchvision.models import resnet, vgg

from collapse.models.paper import IMAGENET_HEIGHT, Shape, initialise

_VGG_PLANS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}


# Nobody's network: deep and uneven enough for layers to collapse, small enough for many seeds.
_MINI = "minivgg"


_MINI_NARROWER = 4


_RESNET_PLANS: dict[str, tuple[Any, list[int]]] = {
    "resnet18": (resnet.BasicBlock, [2, 2, 2, 2]),
    "resnet34": (resnet.BasicBlock, [3, 4, 6, 3]),
    "resnet50": (resnet.Bottleneck, [3, 4, 6, 3]),
    "resnet101": (resnet.Bottleneck, [3, 4, 23, 3]),
    "resnet152": (resnet.Bottleneck, [3, 8, 36, 3]),
}


_CIFAR_RESNET_DEPTHS = (20, 32, 44, 56, 110, 1202)


_TINYIMAGENET_HEIGHT = 48


def _at_imagenet_size(name: str, classes: int) -> nn.Module:
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes)
    return model


def _vgg(name: str, input_shape: Shape, classes: int) -> nn.Module:
    """VGG (Simonyan & Zisserman 2015) in its 32×32, 64×64 or 224×224 form."""
    channels, height, _ = input_shape
    if height >= IMAGENET_HEIGHT:
        return _at_imagenet_size(name, classes)
    plan = list(vgg.cfgs[_VGG_PLANS[name.removesuffix("_bn")]])
    head: list[nn.Module]
    if height >= _TINYIMAGENET_HEIGHT:
        head = [
            *(nn.Flatten(), nn.Linear(2048, 1024), nn.ReLU(True), nn.Dropout()),
            *(nn.Linear(1024, 1024), nn.ReLU(True), nn.Dropout(), nn.Linear(1024, classes)),
        ]
    else:
        plan = plan[:-1]  # the last pooling is the head's average
        head = [nn.AvgPool2d(2), nn.Flatten(), nn.Linear(512, classes)]
    model = _of_vgg_parts(plan, head, channels, batch_norm=name.endswith("_bn"))
    if height >= _TINYIMAGENET_HEIGHT:
        _initialise_as_torchvision(model)
    else:  # as OpenLTH's, which the paper's are at this size
        initialise(model, "kaiming")
    return model


def _mini_vgg(_: str, input_shape: Shape, classes: int) -> nn.Module:
    """VGG-11-BN at a quarter of its width: nine layers, 0.6 M parameters."""
    plan = [
        width if isinstance(width, str) else width // _MINI_NARROWER
        for width in vgg.cfgs[_VGG_PLANS["vgg11"]][:-1]
    ]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512 // _MINI_NARROWER, classes)]
    model = _of_vgg_parts(plan, head, input_shape[0], batch_norm=True)
    initialise(model, "kaiming")
    return model


def _of_vgg_parts(
    plan: list[Any], head: list[nn.Module], channels: int, *, batch_norm: bool
) -> nn.Module:
    features = vgg.make_layers(plan, batch_norm=batch_norm)
    if channels != 3:
        features[0] = nn.Conv2d(channels, plan[0], kernel_size=3, padding=1)
    model = nn.Sequential()
    model.add_module("features", features)
    model.add_module("classifier", nn.Sequential(*head))
    return model


def _initialise_as_torchvision(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # make_layers gives every one a bias
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)


class _WideResNet(resnet.ResNet):  # type: ignore[misc]  # torchvision is not typed
    """ResNet of basic blocks of double width (Zagoruyko & Komodakis 2016), the stem unchanged."""

    def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        layer: nn.Sequential = super()._make_layer(block, 2 * planes, *args, **kwargs)
        return layer


def _resnet(name: str, input_shape: Shape, classes: int) -> nn.Module:
    """ResNet (He et al. 2016), below ImageNet's size with a 3×3 stem and no stem pooling."""
    channels, height, _ = input_shape
    model: nn.Module
    if name == "wideresnet18":
        model = _WideResNet(resnet.BasicBlock, [2, 2, 2, 2], num_classes=classes)
        model.fc = nn.Linear(1024, classes)
    elif height >= IMAGENET_HEIGHT:
        return _at_imagenet_size(name, classes)
    else:
        block, plan = _RESNET_PLANS[name]
        model = resnet.ResNet(block, plan, num_classes=classes)
    if height < IMAGENET_HEIGHT:
        model.conv1 = nn.Conv2d(channels, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model


def _cifar_resnet(name: str, input_shape: Shape, classes: int) -> nn.Module:
    """ResNet-20 to ResNet-1202 of He et al. 2016, section 4.2: three stages of 16, 32, 64."""
    blocks = (int(name.removeprefix("resnet")) - 2) // 6
    stages = nn.Sequential()
    width = 16
    for stage, planes in enumerate((16, 32, 64), start=1):
        layers = []
        for index in range(blocks):
            stride = 2 if stage > 1 and index == 0 else 1
            shortcut = None
            if width != planes:
                shortcut = nn.Sequential(
                    resnet.conv1x1(width, planes, stride), nn.BatchNorm2d(planes)
                )
            layers.append(resnet.BasicBlock(width, planes, stride, shortcut))
            width = planes
        stages.add_module(f"stage{stage}", nn.Sequential(*layers))
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(input_shape[0], 16, 3, padding=1, bias=False))
    model.add_module("bn", nn.BatchNorm2d(16))
    model.add_module("relu", nn.ReLU(inplace=True))
    model.add_module("stages", stages)
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    model.add_module("fc", nn.Linear(64, classes))
    initialise(model, "kaiming")
    return model


BUILDERS: dict[str, Callable[[str, Shape, int], nn.Module]] = {
    **{f"{name}{suffix}": _vgg for name in _VGG_PLANS for suffix in ("", "_bn")},
    **dict.fromkeys([*_RESNET_PLANS, "wideresnet18"], _resnet),
    **{f"resnet{depth}": _cifar_resnet for depth in _CIFAR_RESNET_DEPTHS},
    _MINI: _mini_vgg,
}
