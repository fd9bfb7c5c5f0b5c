"""The paper's networks, anybody's networks, and which of their tensors are prunable.

The paper's networks come from torchvision's own builders with another stem or head:
``vgg.make_layers``, ``resnet.ResNet`` and its ``BasicBlock``.
"""

from __future__ import annotations

import importlib
import itertools
import math
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize
from torchvision.models import resnet, vgg

from collapse.errors import RequestError, first_line, unknown
from collapse.seeding import derive

Shape = tuple[int, ...]

# --- Which tensors are prunable ---------------------------------------------------------------

_LAYERS = (nn.Linear, _ConvNd)
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def prunable(
    model: nn.Module, *, biases: bool = False, batchnorm: bool = False
) -> dict[str, nn.Parameter]:
    """The prunable tensors of a model, keyed by parameter name, in parameter order.

    A layer is the ``weight`` of a Linear or ConvNd module (any dimension, groups, transposed).
    A weight shared by several modules is counted once, under its first name; a frozen one
    (``requires_grad=False``) is as prunable as any other.

    Args:
        biases: also the ``bias`` of each of these modules.
        batchnorm: also weight and bias of each normalisation module.

    Raises:
        RequestError: there is no such tensor, or a module computes its weight from others
            (``torch.nn.utils.prune``, parametrizations) or has no weight yet (lazy modules).
    """
    wanted: set[int] = set()
    for path, module in model.named_modules():
        if isinstance(module, _LAYERS):
            _check_plain_weight(path, module)
            tensors = [module.weight, *([module.bias] if biases else [])]
        elif batchnorm and isinstance(module, _NORMS):
            tensors = [module.weight, module.bias]
        else:
            continue
        wanted.update(id(tensor) for tensor in tensors if tensor is not None)
    found = {name: p for name, p in model.named_parameters() if id(p) in wanted}
    if not found:
        raise RequestError(
            f"{type(model).__name__} has no prunable layer: "
            "expected at least one Linear or ConvNd module, found none"
        )
    return found


def _check_plain_weight(path: str, module: nn.Module) -> None:
    """A layer whose weight is not a plain parameter would be left out in silence otherwise."""
    if "weight_orig" in module._parameters:
        raise RequestError(
            f"'{path}' carries a mask of torch.nn.utils.prune: expected a plain weight; "
            f"call torch.nn.utils.prune.remove(module, 'weight') first"
        )
    if parametrize.is_parametrized(module, "weight"):
        raise RequestError(
            f"'{path}.weight' is parametrized: expected a plain weight; "
            f"call torch.nn.utils.parametrize.remove_parametrizations first"
        )
    if isinstance(module.weight, nn.UninitializedParameter):
        raise RequestError(
            f"'{path}' is a lazy module without weights: expected an initialised one; "
            f"run the model once on an input first"
        )


def check_finite(model: nn.Module) -> None:
    """Raise RequestError that names the first tensor with NaN or infinite values, if any."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and tensor.numel():
            # aminmax lets NaN through and allocates nothing, unlike isfinite().all().
            low, high = torch.aminmax(tensor.detach())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise RequestError(
                    f"'{name}' holds NaN or infinite values: expected finite weights"
                )


# --- The paper's networks ---------------------------------------------------------------------

_VGG_PLANS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}
_RESNET_PLANS: dict[str, tuple[Any, list[int]]] = {
    "resnet18": (resnet.BasicBlock, [2, 2, 2, 2]),
    "resnet34": (resnet.BasicBlock, [3, 4, 6, 3]),
    "resnet50": (resnet.Bottleneck, [3, 4, 6, 3]),
    "resnet101": (resnet.Bottleneck, [3, 4, 23, 3]),
    "resnet152": (resnet.Bottleneck, [3, 8, 36, 3]),
}
_CIFAR_RESNET_DEPTHS = (20, 32, 44, 56, 110, 1202)
# From this height on a network gets torchvision's ImageNet stem and head.
_IMAGENET_HEIGHT = 128
_TINY_IMAGENET_HEIGHT = 48


def _vgg(name: str, input_shape: Shape, classes: int) -> nn.Module:
    """VGG (Simonyan & Zisserman 2015) in its 32×32, 64×64 or 224×224 form."""
    channels, height, _ = input_shape
    if height >= _IMAGENET_HEIGHT:
        return _from_torchvision(name, input_shape, classes)
    plan = list(vgg.cfgs[_VGG_PLANS[name.removesuffix("_bn")]])
    head: list[nn.Module]
    if height >= _TINY_IMAGENET_HEIGHT:
        head = [
            *(nn.Flatten(), nn.Linear(2048, 1024), nn.ReLU(True), nn.Dropout()),
            *(nn.Linear(1024, 1024), nn.ReLU(True), nn.Dropout(), nn.Linear(1024, classes)),
        ]
    else:
        plan = plan[:-1]  # the last pooling is the head's average
        head = [nn.AvgPool2d(2), nn.Flatten(), nn.Linear(512, classes)]
    features = vgg.make_layers(plan, batch_norm=name.endswith("_bn"))
    if channels != 3:
        features[0] = nn.Conv2d(channels, 64, kernel_size=3, padding=1)
    model = nn.Sequential()
    model.add_module("features", features)
    model.add_module("classifier", nn.Sequential(*head))
    for module in model.modules():  # as torchvision's VGG initialises itself
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # make_layers gives every one a bias
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
    return model


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
    elif height >= _IMAGENET_HEIGHT:
        return _from_torchvision(name, input_shape, classes)
    else:
        block, plan = _RESNET_PLANS[name]
        model = resnet.ResNet(block, plan, num_classes=classes)
    if height < _IMAGENET_HEIGHT:
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


def _fc(_: str, input_shape: Shape, classes: int) -> nn.Module:
    """The paper's perceptron: six layers, 100 units each."""
    widths = [math.prod(input_shape), *[100] * 5]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def _conv(_: str, input_shape: Shape, classes: int) -> nn.Module:
    """The paper's small convolutional network: two convolutions of 32 channels, one linear."""
    channels, height, width = input_shape
    return nn.Sequential(
        *(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * height * width, classes)),
    )


ARCHITECTURES: dict[str, Callable[[str, Shape, int], nn.Module]] = {
    **{f"{name}{suffix}": _vgg for name in _VGG_PLANS for suffix in ("", "_bn")},
    **dict.fromkeys([*_RESNET_PLANS, "wideresnet18"], _resnet),
    **{f"resnet{depth}": _cifar_resnet for depth in _CIFAR_RESNET_DEPTHS},
    "fc": _fc,
    "conv": _conv,
}

# --- Anybody's networks -----------------------------------------------------------------------


def _from_torchvision(
    name: str, input_shape: Shape, classes: int, pretrained: bool = False
) -> nn.Module:
    if name not in torchvision.models.list_models():
        raise unknown("torchvision model", name, torchvision.models.list_models())
    with warnings.catch_warnings():  # GoogLeNet and Inception announce a future default
        warnings.simplefilter("ignore", FutureWarning)
        weights = "DEFAULT" if pretrained else None
        model: nn.Module = torchvision.models.get_model(name, weights=weights, num_classes=classes)
    return model


def _from_timm(name: str, input_shape: Shape, classes: int, pretrained: bool = False) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise RequestError(
            f"model 'timm:{name}' needs timm: install the extra with "
            "`pip install layer-collapse[zoo]`"
        ) from error
    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models())
    options: dict[str, Any] = {"num_classes": classes, "in_chans": input_shape[0]}
    settings = timm.get_pretrained_cfg(name)
    if settings is not None and settings.fixed_input_size:
        options["img_size"] = input_shape[1:]
    model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    return model


def _from_factory(name: str) -> nn.Module:
    """``package.module:factory``, called without arguments, with the current folder importable."""
    module_name, _, factory_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises on import is the user's to see
        raise RequestError(
            f"model '{name}': importing '{module_name}' failed with "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    if not hasattr(module, factory_name):
        raise unknown(
            f"factory in '{module_name}'",
            factory_name,
            [
                key
                for key, value in vars(module).items()
                if callable(value) and not key.startswith("_")
            ],
        )
    try:
        model = getattr(module, factory_name)()
    except Exception as error:  # likewise
        raise RequestError(
            f"model '{name}': expected a callable that takes no arguments; calling it failed "
            f"with {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise RequestError(
            f"model '{name}': expected a torch.nn.Module, got {type(model).__name__}"
        )
    return model


# --- Initialisation and weights ---------------------------------------------------------------

INITS: dict[str, Callable[[Tensor], Tensor]] = {
    "kaiming": partial(nn.init.kaiming_normal_, mode="fan_in"),
    "kaiming_fan_out": partial(nn.init.kaiming_normal_, mode="fan_out"),
    "kaiming_uniform": partial(nn.init.kaiming_uniform_, mode="fan_in"),
    "xavier": nn.init.xavier_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "orthogonal": nn.init.orthogonal_,
}


def initialise(model: nn.Module, init: str) -> None:
    """Draw every prunable weight anew, in place; biases become 0, normalisations the identity.

    Args:
        init: a name in ``INITS``. ``kaiming`` is He et al. 2015's normal with fan-in and gain √2,
            ``xavier`` Glorot & Bengio 2010's normal.

    Raises:
        RequestError: no such initialisation.
    """
    if init not in INITS:
        raise unknown("init", init, INITS)
    draw = INITS[init]
    for module in model.modules():
        if isinstance(module, _LAYERS):
            draw(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, _NORMS) and isinstance(module.weight, nn.Parameter):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a safetensors state dict into a model, in place; all names and shapes must fit.

    Raises:
        RequestError: missing, truncated or foreign file, or another network's weights.
    """
    if path.suffix != ".safetensors":
        raise RequestError(f"weights '{path}': expected 'pretrained' or a .safetensors file")
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RequestError(f"weights '{path}' cannot be read: {first_line(error)}") from error
    own = model.state_dict()
    for name in own:
        if name not in state:
            raise RequestError(f"weights '{path}' are of another network: no tensor '{name}'")
        if own[name].shape != state[name].shape:
            raise RequestError(
                f"weights '{path}' are of another network: '{name}' expected shape "
                f"{tuple(own[name].shape)}, got {tuple(state[name].shape)}"
            )
    for name in state:
        if name not in own:
            raise RequestError(
                f"weights '{path}' are of another network: the model has no tensor '{name}'"
            )
    model.load_state_dict(state)


def build(
    name: str,
    *,
    input_shape: Shape = (3, 32, 32),
    classes: int = 10,
    init: str | None = None,
    weights: str | None = None,
    seed: int = 0,
) -> nn.Module:
    """Build a network by name; the caller's random state stays as it was.

    Args:
        name: one of ``ARCHITECTURES``, ``torchvision:NAME``, ``timm:NAME`` or
            ``package.module:factory`` (called without arguments).
        input_shape: channels, height, width; it chooses the form of the paper's networks.
        classes: outputs of the last layer (a factory chooses its own).
        init: a name in ``INITS``; the model's own initialisation without it.
        weights: ``"pretrained"`` or a ``.safetensors`` file with a state dict.
        seed: of the initialisation.

    Raises:
        RequestError: unknown name, an input shape that does not fit, or weights that do not.
    """
    pretrained = weights == "pretrained"
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive(seed, "initialisation"))
            model = _by_name(name, input_shape, classes, pretrained)
            if init is not None:
                initialise(model, init)
    except RequestError:
        raise
    except OSError as error:
        raise RequestError(
            f"weights of '{name}' cannot be downloaded ({first_line(error)}); where there is a "
            f'network, run `python -c "import collapse; collapse.build({name!r}, '
            f"input_shape={input_shape}, classes={classes}, weights='pretrained')\"` and copy "
            "its cache folder (~/.cache/torch or ~/.cache/huggingface) here"
        ) from error
    except (ValueError, TypeError, AssertionError, RuntimeError) as error:
        raise RequestError(
            f"model '{name}' cannot be built for input {input_shape} and {classes} classes: "
            f"{first_line(error)}"
        ) from error
    if weights is not None and not pretrained:
        load_weights(model, Path(weights))
    return model


def _by_name(name: str, input_shape: Shape, classes: int, pretrained: bool) -> nn.Module:
    source, _, rest = name.partition(":")
    if source == "torchvision" and rest:
        return _from_torchvision(rest, input_shape, classes, pretrained)
    if source == "timm" and rest:
        return _from_timm(rest, input_shape, classes, pretrained)
    if pretrained:
        own = name in torchvision.models.list_models() and input_shape[1] >= _IMAGENET_HEIGHT
        if not own:
            raise RequestError(
                f"no pretrained weights for '{name}' at input {input_shape}: expected "
                "torchvision:NAME, timm:NAME, or a paper network at 224×224"
            )
        return _from_torchvision(name, input_shape, classes, pretrained)
    if rest:
        return _from_factory(name)
    if name not in ARCHITECTURES:
        raise unknown("model", name, ARCHITECTURES)
    if len(input_shape) != 3 and name != "fc":
        raise RequestError(
            f"model '{name}' takes images: expected an input shape C H W, got {input_shape}"
        )
    return ARCHITECTURES[name](name, input_shape, classes)
