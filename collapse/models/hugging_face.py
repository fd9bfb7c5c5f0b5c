"""Hugging Face's networks from a config, randomly initialised: nothing is ever downloaded."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from torch import nn

from collapse.errors import RequestError, first_line, unknown


def from_transformers(
    name: str, input_shape: tuple[int, ...], classes: int, pretrained: bool = False
) -> nn.Module:
    """A network by its class, or by the path of its ``config.json`` or the folder that holds it.

    Args:
        name: ``GPT2LMHeadModel``, ``GPT2LMHeadModel?n_layer=2&n_embd=64`` or a path, which may be
            followed by settings too.
        input_shape: of images, the size that a class by name is built for.
        classes: becomes ``num_labels``, unless the settings say otherwise.
        pretrained: is refused: a config is of no weights.

    Raises:
        RequestError: no such class, file or setting, or a config that builds no network.
    """
    try:
        import transformers
    except ImportError as error:
        raise RequestError(
            f"model 'transformers:{name}' needs transformers: install the extra with "
            "`pip install layer-collapse[transformers]`"
        ) from error
    if pretrained:
        raise RequestError(
            f"--weights pretrained: 'transformers:{name}' is built from a config and never "
            "downloaded; expected a .safetensors file with its state dict"
        )
    base, _, query = name.partition("?")
    settings = {key: _value(text) for key, text in parse_qsl(query, keep_blank_values=True)}
    path = Path(base)
    if path.suffix == ".json" or path.is_dir():
        config, model_class = _from_file(transformers, path)
    else:
        config, model_class = _from_class(transformers, base)
        if len(input_shape) == 3:
            _fit_images(config, input_shape, settings)
    _check_settings(config, settings)
    log = logging.getLogger("transformers")
    before = log.level
    log.setLevel(logging.ERROR)  # ids of special tokens lie beyond a small vocabulary
    try:
        unasked = {"num_labels": classes, "use_pretrained_backbone": False}
        for key, value in {**unasked, **settings}.items():
            if key in settings or hasattr(config, key):
                setattr(config, key, value)
        # Built again from its settings, because some are derived from others.
        config = type(config).from_dict(config.to_dict())
        network: nn.Module = model_class(config)
    except Exception as error:  # configs check themselves, each in its way
        raise RequestError(
            f"model 'transformers:{name}' cannot be built: {type(error).__name__}: {error}"
        ) from error
    finally:
        log.setLevel(before)
    return network


def _value(text: str) -> Any:
    """Numbers, true, false, null and lists as JSON has them; any other text as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _from_class(transformers: Any, name: str) -> tuple[Any, Any]:
    found = getattr(transformers, name, None) if name.isidentifier() else None
    known = isinstance(found, type) and issubclass(found, nn.Module)
    if found is None or not known or getattr(found, "config_class", None) is None:
        raise _unknown_class(transformers, name)
    return found.config_class(), found


def _unknown_class(transformers: Any, name: str) -> RequestError:
    names = [n for n in dir(transformers) if n.endswith("Model") or "For" in n or "LMHead" in n]
    names = [n for n in names if not n.startswith(("Auto", "TF", "Flax"))]
    short = "".join(filter(str.isalnum, name)).lower()
    near = [n for n in names if short and n.lower().startswith(short)]
    if near:
        error = f"unknown transformers class '{name}'; nearest: {', '.join(near[:6])}"
    else:
        listing = "python -c 'import transformers; print(dir(transformers))'"
        error = str(unknown("transformers class", name, names, listing))
    return RequestError(f"{error} (or the path of a config.json; nothing is downloaded)")


def _from_file(transformers: Any, path: Path) -> tuple[Any, Any]:
    file = path / "config.json" if path.is_dir() else path
    try:
        read = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise RequestError(f"config '{file}' cannot be read: {first_line(error)}") from error
    if not isinstance(read, dict) or "model_type" not in read:
        raise RequestError(f"config '{file}': expected a Hugging Face config with a model_type")
    kind = read.pop("model_type")
    try:
        config = transformers.AutoConfig.for_model(kind, **read)
    except Exception as error:  # an unknown type, or a setting that it does not take
        raise RequestError(f"config '{file}': {first_line(error)}") from error
    architectures = read.get("architectures") or []
    if architectures:
        return config, _from_class(transformers, architectures[0])[1]
    return config, transformers.AutoModel.from_config(config).__class__


def _check_settings(config: Any, settings: dict[str, Any]) -> None:
    valid = {*config.to_dict(), *getattr(config, "attribute_map", {}), "num_labels"}
    for key in settings:
        if key not in valid:
            raise unknown(f"setting of {type(config).__name__}", key, sorted(valid))


def _fit_images(config: Any, input_shape: tuple[int, ...], settings: dict[str, Any]) -> None:
    channels, height, width = input_shape
    sizes = {"image_size": height if height == width else [height, width], "num_channels": channels}
    for key, value in sizes.items():
        if hasattr(config, key) and key not in settings:
            setattr(config, key, value)
