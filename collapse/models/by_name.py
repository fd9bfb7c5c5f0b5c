"""Networks by name: the paper's, torchvision's, timm's, Hugging Face's and the user's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from collapse.errors import RequestError, first_line, unknown
from collapse.models.hugging_face import from_transformers
from collapse.models.paper import IMAGENET_HEIGHT, Shape, conv, fc, initialise
from collapse.models.user import from_factory, parameters_of
from collapse.options import NETWORKS, unknown_model
from collapse.seeding import derive


def _of_torchvision(name: str, input_shape: Shape, classes: int) -> nn.Module:
    # torchvision brings torch's compiler along, and takes longer to import than torch itself.
    from collapse.models.vgg_resnet import BUILDERS

    return BUILDERS[name](name, input_shape, classes)


ARCHITECTURES: dict[str, Callable[[str, Shape, int], nn.Module]] = {
    **dict.fromkeys(NETWORKS, _of_torchvision),
    "fc": fc,
    "conv": conv,
}


def _from_torchvision(name: str, classes: int, pretrained: bool = False) -> nn.Module:
    from torchvision import models

    if name not in models.list_models():
        listing = "python -c 'import torchvision; print(torchvision.models.list_models())'"
        raise unknown("torchvision model", name, models.list_models(), listing)
    options: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
    # Detectors and segmenters would download a pretrained backbone that nobody asked for.
    if "weights_backbone" in parameters_of(models.get_model_builder(name)):
        options["weights_backbone"] = None
    with warnings.catch_warnings():  # GoogLeNet and Inception announce a future default
        warnings.simplefilter("ignore", FutureWarning)
        model: nn.Module = models.get_model(name, num_classes=classes, **options)
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
        listing = "python -c 'import timm; print(timm.list_models())'"
        raise unknown("timm model", name, timm.list_models(), listing)
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
        name: one of ``ARCHITECTURES``, ``torchvision:NAME``, ``timm:NAME``, ``transformers:CONFIG``
            (a class name or a config's path, see ``hugging_face``) or ``package.module:factory``,
            called with ``classes=`` and ``input_shape=`` if it takes
            them.
        input_shape: channels, height, width; it chooses the form of the paper's networks.
        classes: outputs of the last layer (a factory that does not take them chooses its own).
        init: a name in ``INITS``; the model's own initialisation without it.
        weights: ``"pretrained"`` or a ``.safetensors`` file with a state dict.
        seed: of the initialisation.

    Raises:
        RequestError: unknown name, an input shape that does not fit, or weights that do not.

    Example:
        >>> fc = build("fc", input_shape=(1, 8, 8), classes=3)
        >>> fc(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 3])
    """
    if not isinstance(classes, int) or classes < 1:
        raise RequestError(f"classes: expected at least 1, got {classes!r}")
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
        return _from_torchvision(rest, classes, pretrained)
    if source == "timm" and rest:
        return _from_timm(rest, input_shape, classes, pretrained)
    if source == "transformers" and rest:
        return from_transformers(rest, input_shape, classes, pretrained)
    if pretrained:
        from torchvision.models import list_models

        small = len(input_shape) != 3 or input_shape[1] < IMAGENET_HEIGHT
        if name not in list_models() or small:
            raise RequestError(
                f"no pretrained weights for '{name}' at input {input_shape}: expected "
                "torchvision:NAME, timm:NAME, or a paper network at 224×224"
            )
        return _from_torchvision(name, classes, pretrained)
    if rest:
        return from_factory(name, input_shape, classes)
    if name not in ARCHITECTURES:
        raise unknown_model(name)
    if len(input_shape) != 3 and name != "fc":
        raise RequestError(
            f"model '{name}' takes images: expected an input shape C H W, got {input_shape}"
        )
    return ARCHITECTURES[name](name, input_shape, classes)
