"""Masks on models and in files."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from collapse.errors import RequestError, first_line
from collapse.files import atomic
from collapse.models import Masks, computed, hold, own_parameters, plain, prunable


@torch.no_grad()
def apply(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set every pruned parameter of the model to zero, in place, once.

    Training brings them back: of ResNet-20's 16,931 kept weights a step of SGD with weight decay
    makes 269,759 that are not zero, the second all 270,896.
    ``keep_pruned`` has them stay at zero.

    The masks are by the names of the plain network (``models.plain``), the model is the user's
    own: compiled, wrapped, with packed attention or computed weights.

    Raises:
        RequestError: the masks are of another network, or a computed weight takes none.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> apply(layer, {"weight": torch.tensor([[True, False]])})
        >>> (layer.weight != 0).tolist()
        [[True, False]]
    """
    check_fit(model, masks)
    hold(model, masks)
    for parameter, mask in _pairs(model, masks):
        parameter.masked_fill_(~mask, 0)  # a product would leave signs of zero


def _pairs(model: nn.Module, masks: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Parameters with their masks; the plain network's are the user's own, or views of them."""
    parameters = dict(plain(model).named_parameters())
    return [(parameters[name], mask) for name, mask in masks.items()]


@contextmanager
def applied(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """The model with pruned parameters at zero, inside the block only; bit-identical after it.

    Raises:
        RequestError: as ``apply``.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.ones_(layer.weight)
        >>> with applied(layer, {"weight": torch.tensor([[True, False]])}):
        ...     layer(torch.ones(1, 2)).item()
        1.0
    """
    check_fit(model, masks)
    tensors = [parameter.detach() for parameter, _ in _pairs(model, masks)]
    for module in filter(computed, model.modules()):
        tensors += [t.detach() for t in (*module.parameters(), *module.buffers())]
    before = [tensor.clone() for tensor in tensors]
    try:
        apply(model, masks)
        yield model
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)


def check_fit(model: nn.Module, masks: Mapping[str, Tensor], where: str = "masks") -> None:
    """Raise RequestError unless each is a boolean tensor of the name and shape of a parameter."""
    if not isinstance(masks, Mapping):
        raise RequestError(
            f"{where}: expected a dict of boolean tensors by parameter name, got "
            f"{type(masks).__name__}"
        )
    parameters = dict(plain(model).named_parameters())
    if not masks:
        raise RequestError(f"{where} are empty: expected one mask a layer")
    for name, mask in masks.items():
        if name not in parameters:
            raise RequestError(f"{where} are of another network: the model has no '{name}'")
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise RequestError(f"{where}: '{name}' expected a boolean tensor, got {kind}")
        if mask.shape != parameters[name].shape:
            raise RequestError(
                f"{where} are of another network: '{name}' expected shape "
                f"{tuple(parameters[name].shape)}, got {tuple(mask.shape)}"
            )


def save_masks(masks: Mapping[str, Tensor], path: Path, **metadata: str) -> None:
    """Write masks as safetensors, whole or not at all, with their order and any metadata.

    Args:
        metadata: words to keep beside them, under any name but ``order`` (``about_masks``).

    Raises:
        RequestError: that name, or a file that cannot be written.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "masks.safetensors"
        ...     save_masks({"weight": torch.tensor([[True, False]])}, path, pruner="by hand")
        ...     load_masks(path)
        {'weight': tensor([[ True, False]])}
    """
    if "order" in metadata:
        raise RequestError("metadata 'order' is the layers' own: expected another name")
    tensors = {name: mask.to("cpu", torch.bool).contiguous() for name, mask in masks.items()}
    # A state dict on disk is sorted; parameter order decides ties, so it is kept apart. One key
    # only: safetensors writes several in any order, and equal masks give equal files.
    about = {"collapse": json.dumps({"order": list(masks), **metadata})}
    with atomic(Path(path)) as temporary:
        temporary.write_bytes(save(tensors, about))


def load_masks(
    path: Path, model: nn.Module | None = None, layers: Collection[str] | None = None
) -> Masks:
    """Read masks written by ``save_masks``, onto the model's device if one is given.

    Args:
        layers: of which there has to be a mask; everything prunable in the model without it.

    Raises:
        RequestError: missing, truncated or foreign file, or masks of another network.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "masks.safetensors"
        ...     save_masks({"weight": torch.tensor([[True, False]])}, path)
        ...     load_masks(path, nn.Linear(2, 1))["weight"].sum().item()
        1
    """
    if not Path(path).is_file():
        raise RequestError(f"masks '{path}' cannot be read: expected a file, there is none")
    if Path(path).suffix != ".safetensors":
        raise RequestError(
            f"masks '{path}': expected a suffix of .safetensors ('collapse masks {path} --out "
            "FILE.safetensors' takes them from a checkpoint)"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("collapse", "{}"))
            order = metadata.get("order", list(file.keys()))
            masks = {name: file.get_tensor(name) for name in order}
    except (OSError, SafetensorError, ValueError, AttributeError, TypeError) as error:
        raise RequestError(f"masks '{path}' cannot be read: {first_line(error)}") from error
    if not masks:
        raise RequestError(f"masks '{path}' are empty: expected one mask a layer")
    if any(mask.dtype != torch.bool for mask in masks.values()):
        raise RequestError(f"masks '{path}' hold no masks: expected boolean tensors")
    if model is not None:
        model = plain(model)
        check_fit(model, masks, f"masks '{path}'")
        for name in prunable(model) if layers is None else layers:
            if name not in masks:
                raise RequestError(
                    f"masks '{path}' are of another network: no mask of '{name}' (of layers that "
                    "were left out by --exclude there is none; leave them out here as well)"
                )
        devices = {name: p.device for name, p in model.named_parameters()}
        masks = {name: mask.to(devices[name]) for name, mask in masks.items()}
    return masks


def about_masks(path: Path) -> dict[str, Any]:
    """What was said about masks when they were saved, e.g. ``initial_weights``.

    Raises:
        RequestError: missing, truncated or foreign file.
    """
    load_masks(path)
    with safe_open(path, framework="pt") as file:
        about: dict[str, Any] = json.loads((file.metadata() or {}).get("collapse", "{}"))
    return about


def to_torch_prune(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Hand masks over to ``torch.nn.utils.prune``, in place, on every module that uses a weight.

    Afterwards each such module has ``weight_orig`` and ``weight_mask``, as if pruned there.

    Raises:
        RequestError: the masks are of another network.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> to_torch_prune(layer, {"weight": torch.tensor([[True, False]])})
        >>> layer.weight_mask
        tensor([[1., 0.]])
    """
    check_fit(model, masks)
    for module, name, mask in list(own_parameters(model, masks)):
        torch_prune.custom_from_mask(module, name, mask)  # type: ignore[no-untyped-call]  # torch's
