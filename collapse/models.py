"""Networks by name, and which of their tensors are prunable."""

from __future__ import annotations

import importlib
import math
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrize

from collapse.architectures import (
    ARCHITECTURES,
    IMAGENET_HEIGHT,
    LAYERS,
    NORMS,
    Shape,
    initialise,
)
from collapse.errors import RequestError, first_line, unknown
from collapse.seeding import derive

# --- Which tensors are prunable ---------------------------------------------------------------


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
        if isinstance(module, LAYERS):
            _check_plain_weight(path, module)
            tensors = [module.weight, *([module.bias] if biases else [])]
        elif batchnorm and isinstance(module, NORMS):
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


def import_user(name: str, kind: str) -> Any:
    """What ``package.module:name`` names, with the current folder importable.

    Raises:
        RequestError: the import fails, or the module has no such name (the nearest are given).
    """
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises on import is the user's to see
        raise RequestError(
            f"{kind} '{name}': importing '{module_name}' failed with "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    if not hasattr(module, attribute):
        choices = [key for key, value in vars(module).items() if callable(value)]
        raise unknown(f"{kind} in '{module_name}'", attribute, choices)
    return getattr(module, attribute)


def _from_factory(name: str) -> nn.Module:
    """``package.module:factory``, called without arguments."""
    factory = import_user(name, "model")
    try:
        model = factory()
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


# --- Weights and building --------------------------------------------------------------------


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
