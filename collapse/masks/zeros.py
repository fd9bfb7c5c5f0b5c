"""Masks as other tools keep them: zeros in weights, or a mask beside each weight."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from collapse.errors import RequestError
from collapse.files.state_dicts import read_state
from collapse.masks.on_models import check_fit, load_masks
from collapse.models import Masks, plain, prunable


def from_zeros(model: nn.Module) -> Masks:
    """The masks that a network's zeros are: True where a prunable weight is not zero.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> _ = nn.init.constant_(model.weight, 0)
        >>> from_zeros(nn.Sequential(model))["0.weight"]
        tensor([[False, False]])
    """
    return {name: p.detach() != 0 for name, p in prunable(model).items()}


def from_torch_prune(model: nn.Module) -> Masks:
    """The masks of a network pruned by ``torch.nn.utils.prune``; of its other layers, their zeros.

    The model is not changed.

    Example:
        >>> from torch.nn.utils import prune
        >>> layer = prune.l1_unstructured(nn.Linear(4, 1), "weight", amount=3)
        >>> from_torch_prune(layer)["weight"].sum().item()
        1
    """
    return from_zeros(plain(model))


def with_zeros(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's state dict with zeros for what is pruned: what every other tool reads.

    The model itself is not changed.

    Raises:
        RequestError: the masks are of another network.
    """
    check_fit(model, masks)
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    shared = {id(p): name for name, p in model.named_parameters() if name in masks}
    for name, p in model.named_parameters(remove_duplicate=False):
        if id(p) in shared:
            state[name].masked_fill_(~masks[shared[id(p)]], 0)
    return state


def as_torch_prune(state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as ``torch.nn.utils.prune`` would save it: ``X_orig`` and ``X_mask``.

    It loads into a model that was given to ``masks.to_torch_prune``.
    """
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in masks:
            found |= {f"{name}_orig": value, f"{name}_mask": masks[name].to(value.dtype)}
        else:
            found[name] = value
    return found


def plain_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict whose masks are zeros in its weights, whatever tool wrote it.

    Understood are ``torch.nn.utils.prune`` (``X_orig``, ``X_mask``), torchao and other
    parametrisations by a mask (``P.parametrizations.X.original`` and ``.0.mask``), NNCF
    (``__nncf_hooks.post_hooks.P:X__0.0.binary_mask``, or its learnt ``mask`` of logits), and a mask
    beside a weight (``X_mask``, ``X.mask``, ``P.mask``, ``P.binary_mask``).

    Example:
        >>> held = {"a.weight_orig": torch.ones(2), "a.weight_mask": torch.tensor([1.0, 0.0])}
        >>> plain_state(held)
        {'a.weight': tensor([1., 0.])}
    """
    shapes = {_plain_name(name): value.shape for name, value in state.items()}
    plain, masks = {}, {}
    for name, value in state.items():
        weight = next((w for w in _weights_of(name) if shapes.get(w) == value.shape), None)
        if weight is None:
            plain[_plain_name(name)] = value
        else:
            masks[weight] = value > 0
    for name, mask in masks.items():
        plain[name] = torch.where(mask, plain[name], torch.zeros_like(plain[name]))
    return plain


_PARAMETRISED = re.compile(r"^(.*?)parametrizations\.(\w+)\.original$")
_MASKS = (
    (re.compile(r"^(.*)parametrizations\.(\w+)\.\d+\.mask$"), r"\1\2"),
    (re.compile(r"^(.+)_mask$"), r"\1"),
    (re.compile(r"^(.+)\.mask$"), r"\1"),
    (re.compile(r"^(.*?)(?:pre_ops\.\d+\.op\.)?_?(?:binary_)?mask$"), r"\1weight"),
)
_NNCF = re.compile(r"^.*__nncf_hooks\.post_hooks\.(.+)__0\.\d+\.(?:binary_)?mask$")


def _plain_name(name: str) -> str:
    parametrised = _PARAMETRISED.match(name)
    return "".join(parametrised.groups()) if parametrised else name.removesuffix("_orig")


def _weights_of(name: str) -> Iterator[str]:
    """The weights that a tensor of this name may be the mask of."""
    if nncf := _NNCF.match(name):
        yield nncf[1].replace(":", ".")
    yield from (pattern.sub(weight, name) for pattern, weight in _MASKS if pattern.match(name))


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Load anybody's checkpoint into a model, in place; what it has masked becomes zero.

    A model's own state dict is loaded as it is, with the masks and parametrisations that it has.

    Raises:
        RequestError: as ``fitting_state``, and the model is as it was.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> line, masked = nn.Linear(2, 1), nn.utils.prune.identity(nn.Linear(2, 1), "weight")
        >>> masked.weight_mask[0, 1] = 0
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "masked.pt"
        ...     torch.save(masked.state_dict(), path)
        ...     load_checkpoint(line, path)
        >>> (line.weight != 0).tolist()
        [[True, False]]
    """
    state = read_state(Path(path))
    own = state.keys() == model.state_dict().keys()
    fitting = _fitting(model, state if own else plain_state(state), path)
    model.load_state_dict(fitting, strict=False)


def fitting_state(model: nn.Module, path: Path) -> dict[str, Tensor]:
    """The state dict of anybody's checkpoint (see ``plain_state``), checked to fit a model.

    Buffers may be missing (BatchNorm's counters often are); parameters may not.

    Raises:
        RequestError: as ``files.state_dicts.read_state``; a checkpoint of another network, or of
            another kind of number.
    """
    return _fitting(model, plain_state(read_state(Path(path))), path)


def _fitting(model: nn.Module, state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    own = model.state_dict(keep_vars=True)
    state = _without_root(state, own)
    where = f"checkpoint '{path}'"
    for name, value in own.items():
        if name not in state:
            if isinstance(value, nn.Parameter) and not _held_elsewhere(value, own, state):
                raise RequestError(f"{where} is of another network: it has no tensor '{name}'")
            continue
        got = state[name]
        if got.shape != value.shape:
            raise RequestError(f"{where} is of another network: {_other_shape(name, value, got)}")
        if value.is_floating_point() and not got.is_floating_point():
            raise RequestError(
                f"{where}: '{name}' is of {got.dtype}: expected {value.dtype} or another kind of "
                "floating-point numbers"
            )
    extra = [name for name in state if name not in own]
    if extra:
        raise RequestError(f"{where} is of another network: the model has no tensor '{extra[0]}'")
    for name, got in state.items():
        stored = got.to(own[name].dtype)
        if got.is_floating_point() and not torch.equal(stored != 0, got != 0):
            raise RequestError(
                f"{where}: '{name}' is of {got.dtype}, and not all of its numbers exist in the "
                f"model's {own[name].dtype}: expected a model of that precision"
            )
    return state


def _held_elsewhere(p: Tensor, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    """A shared weight is in a file once."""
    return any(other is p and name in state for name, other in own.items())


def _other_shape(name: str, expected: Tensor, got: Tensor) -> str:
    text = f"'{name}' expected shape {tuple(expected.shape)}, got {tuple(got.shape)}"
    if got.ndim == expected.ndim and all(
        g <= e for g, e in zip(got.shape, expected.shape, strict=True)
    ):
        text += " (made smaller, by Torch-Pruning say? Then name the smaller network as the model)"
    return text


def _without_root(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Lightning and others put ``model.`` or ``net.`` before every name."""
    roots = {name.partition(".")[0] for name in state}
    if len(roots) != 1 or any(name in own for name in state):
        return state
    return {name.partition(".")[2]: value for name, value in state.items()}


def read_masks(path: Path, model: nn.Module | None = None) -> Masks:
    """Masks from a file of masks or from a checkpoint, where zeros are masks.

    Args:
        model: the network that they have to fit. Without it every matrix and kernel of a
            checkpoint that is no embedding's or norm's by its name counts as a layer.

    Raises:
        RequestError: as ``load_masks`` and ``read_state``, or masks of another network.
    """
    path = Path(path)
    if holds_masks(path):
        return load_masks(path, model, ())
    state = plain_state(read_state(path)) if model is None else fitting_state(model, path)
    if model is not None:
        names = {
            id(p): name
            for name, p in model.named_parameters(remove_duplicate=False)
            if name in state
        }
        return {name: state[names[id(p)]] != 0 for name, p in prunable(model).items()}
    found = {
        name: value != 0
        for name, value in state.items()
        if value.ndim > 1 and name.endswith("weight") and not re.search("embed|norm", name)
    }
    if not found:
        raise RequestError(f"'{path}' holds no weights: expected matrices or kernels by name")
    return found


def holds_masks(path: Path) -> bool:
    """Whether a file holds masks (booleans), not weights."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # an open file is no dict to loop over
            return all(file.get_slice(name).get_dtype() == "BOOL" for name in names)
    except (OSError, SafetensorError):
        return False  # whoever reads it says why
