"""Which parameters of a module multiply activations, and which are added to them."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

_LINEAR = (nn.Linear, _ConvNd, nn.Bilinear)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
PROJECTIONS = ("q_proj_weight", "k_proj_weight", "v_proj_weight")

# Linear layers of libraries that need not be here: (package, class). The first holds [in, out].
_TRANSPOSED = ("transformers", "Conv1D")
_FOREIGN = (_TRANSPOSED, ("torch_geometric", "Linear"))


def is_a(module: nn.Module, *classes: tuple[str, str]) -> bool:
    """Whether a module is of one of these (package, class), none of which is imported."""
    return not _names(type(module)).isdisjoint(classes)  # type: ignore[arg-type]  # hashable


@functools.lru_cache(maxsize=1024)  # asked of every module in each scoring
def _names(cls: type) -> frozenset[tuple[str, str]]:
    return frozenset((base.__module__.partition(".")[0], base.__name__) for base in cls.__mro__)


def weights_of(module: nn.Module) -> list[str]:
    """The names of a module's own parameters that multiply activations."""
    if isinstance(module, _RECURRENT):
        names = [name for name in module._parameters if name.startswith("weight_")]
    elif isinstance(module, nn.MultiheadAttention):
        names = ["in_proj_weight", *PROJECTIONS]
    elif isinstance(module, _LINEAR) or is_a(module, *_FOREIGN):
        names = ["weight"]
    else:
        names = []
    return [name for name in names if module._parameters.get(name) is not None]


def biases_of(module: nn.Module) -> list[str]:
    """The names of a module's own biases."""
    own = module._parameters.items()
    return [name for name, tensor in own if tensor is not None and is_bias(name)]


def is_bias(name: str) -> bool:
    """Whether a parameter of this name is a bias: ``bias``, ``in_proj_bias``, ``bias_ih_l0``."""
    last = name.rpartition(".")[2]
    return last == "bias" or last.startswith("bias_") or last.endswith("_bias")


def matrices_of(module: nn.Module) -> Iterator[Tensor]:
    """A module's weights, each laid out as ``[out, in, …]``: views to write into."""
    for name in weights_of(module):
        weight = module._parameters[name]
        assert weight is not None
        if name == "in_proj_weight":
            yield from weight.detach().chunk(3)
        else:
            yield weight.detach().t() if is_a(module, _TRANSPOSED) else weight.detach()
