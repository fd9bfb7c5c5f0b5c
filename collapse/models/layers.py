"""Which tensors of a network are prunable."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from collapse.errors import RequestError
from collapse.models.kinds import NORMS, PROJECTIONS, biases_of, weights_of
from collapse.models.plain_network import plain
from collapse.models.stateless import all_finite


def prunable(
    model: nn.Module,
    *,
    biases: bool = False,
    batchnorm: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> dict[str, nn.Parameter]:
    """The prunable tensors of a model, keyed by parameter name, in parameter order.

    A layer is a weight that multiplies activations: of Linear, ConvNd (any dimension, groups,
    transposed) and Bilinear, each of the three maps of ``nn.MultiheadAttention``, each matrix of
    RNN, LSTM, GRU and their cells, of Hugging Face's ``Conv1D`` and PyTorch Geometric's
    ``Linear``. A weight shared by several modules is counted once, under its first name; a frozen
    one (``requires_grad=False``) is as prunable as any other. Names are those of the plain network
    (``models.plain``).

    Args:
        biases: also the biases of these modules.
        batchnorm: also weight and bias of each normalisation module.
        include: patterns (as of file names, ``blocks.*.scale``) of further parameters.
        exclude: patterns of layers to leave out.

    Raises:
        RequestError: there is no such tensor, a module has no weight yet (lazy modules), or a
            pattern matches nothing.

    Example:
        >>> net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2))
        >>> list(prunable(net, include=["0.*"], exclude=["1.weight"]))
        ['0.weight']
    """
    model = plain(model)
    wanted: set[int] = set()
    for path, module in model.named_modules():
        names = weights_of(module)
        if names and biases:
            names = [*names, *biases_of(module)]
        elif batchnorm and isinstance(module, NORMS):
            names = ["weight", "bias"]
        tensors = [module._parameters.get(name) for name in names]
        wanted.update(id(tensor) for tensor in tensors if tensor is not None)
        if any(isinstance(tensor, nn.UninitializedParameter) for tensor in tensors):
            raise RequestError(
                f"'{path}' is a lazy module without weights: expected an initialised one; "
                f"run the model once on an input first"
            )
    every = dict(model.named_parameters())
    _check_held(every)
    added = _matched(include, every, "include", "parameter")
    found = {name: p for name, p in every.items() if id(p) in wanted or name in added}
    left_out = _matched(exclude, found, "exclude", "layer")
    found = {name: p for name, p in found.items() if name not in left_out}
    if not found:
        kinds = "Linear, ConvNd, attention or recurrent module"
        raise RequestError(
            f"{type(model).__name__} has no prunable layer: expected at least one {kinds}, found "
            f"{'none that is not excluded' if left_out else 'none'} (--include PATTERN adds "
            "parameters by name, in Python include=)"
        )
    return found


def _check_held(parameters: Mapping[str, nn.Parameter]) -> None:
    """Raise RequestError that names the first parameter without values, or of complex numbers."""
    for name, p in parameters.items():
        if p.is_meta:
            raise RequestError(
                f"'{name}' is on the meta device, without values: expected a network with weights "
                "(model.to_empty(device='cpu'), then load them)"
            )
        if p.is_complex():
            raise RequestError(
                f"'{name}' is of {p.dtype}: expected real weights; complex ones are not supported"
            )


def _matched(patterns: Sequence[str], names: Iterable[str], option: str, what: str) -> set[str]:
    if isinstance(patterns, str):
        raise RequestError(f"{option}: expected a list of patterns, got the text '{patterns}'")
    found: set[str] = set()
    aliases = {name: _aliases(name) for name in names}
    for pattern in patterns:
        matching = {
            n for n, known in aliases.items() if any(fnmatchcase(k, pattern) for k in known)
        }
        if not matching:
            near = difflib.get_close_matches(pattern.strip("*"), aliases, n=3, cutoff=0)
            raise RequestError(
                f"--{option} '{pattern}' matches no {what}: expected a name or a pattern of names, "
                f"nearest: {', '.join(near)}"
            )
        found |= matching
    return found


def _aliases(name: str) -> list[str]:
    """What a user may call a parameter: its name, as tables print it, and as torch packs it."""
    path, _, last = name.rpartition(".")
    packed = [f"{path}.in_proj_weight".lstrip(".")] if last in PROJECTIONS else []
    return [name, name.removesuffix(".weight"), *packed]


def check_finite(model: nn.Module) -> None:
    """Raise RequestError that names the first tensor with NaN or infinite values, if any.

    Parameters and running statistics; any other buffer may hold what it likes (a mask of -inf, an
    observer's limits): what comes of it shows in the scores.
    """
    running = ("running_mean", "running_var")
    buffers = [(n, b) for n, b in model.named_buffers() if n.rpartition(".")[2] in running]
    for what, tensors in (("weights", model.named_parameters()), ("running statistics", buffers)):
        for name, tensor in tensors:
            if tensor.is_floating_point() and not all_finite(tensor.detach()):
                raise RequestError(f"'{name}' holds NaN or infinite values: expected finite {what}")
