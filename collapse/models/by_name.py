"""Networks by name: the paper's, torchvision's, timm's and the user's own."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from collapse.errors import RequestError, first_line, unknown
from collapse.models.paper import ARCHITECTURES, IMAGENET_HEIGHT, Shape, initialise
from collapse.models.user import _from_factory
from collapse.seeding import derive


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
    if classes < 1:
        raise RequestError(f"classes: expected at least 1, got {classes}")
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
        own = name in torchvision.models.list_models() and input_shape[1] >= IMAGENET_HEIGHT
        if not own:
            raise RequestError(
                f"no pretrained weights for '{name}' at input {input_shape}: expected "
                "torchvision:NAME, timm:NAME, or a paper network at 224×224"
            )
        return _from_torchvision(name, input_shape, classes, pretrained)
    if rest:
        return _from_factory(name)
    if name not in ARCHITECTURES:
        near = str(unknown("model", name, ARCHITECTURES))
        raise RequestError(f"{near} (or torchvision:NAME, timm:NAME, package.module:factory)")
    if len(input_shape) != 3 and name != "fc":
        raise RequestError(
            f"model '{name}' takes images: expected an input shape C H W, got {input_shape}"
        )
    return ARCHITECTURES[name](name, input_shape, classes)
