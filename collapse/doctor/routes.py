"""Which weights of a network lie on a path from its input to its output, as it is and dense."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from collapse.connectivity import Size, largest_weight, mean_weight
from collapse.doctor.cuts import cut_layers, dense_kernels
from collapse.doctor.facts import Verdict
from collapse.doctor.units import Uses, walk
from collapse.masks.counts import count
from collapse.models import Inputs, Masks, Selector, first_tensor


@dataclass(frozen=True)
class Routes:
    """What walks through a network have seen.

    Attributes:
        kernels: by layer, which entries of its kernel see more than padding when all is kept.
        connected_dense, connected: whether a path is left, when all is kept and as it is.
        alive: the weights that lie on a path, by layer.
        lit: those that do where zeros in the weights of normalisations count as well.
        silenced: whether those zeros end the last path.
        tables: embeddings with columns of zeros, ``norms``: normalisations with zeros, as masks.
        uses: each layer's units, in the order of the forward.
        cuts: the layers that every path of the dense network crosses.
        size: what stood for weights in all of this.
    """

    kernels: Masks
    connected_dense: bool
    connected: bool
    alive: Masks
    lit: Masks
    silenced: bool
    tables: Masks
    norms: Masks
    uses: Uses
    cuts: frozenset[str]
    size: Size

    @classmethod
    def of(cls, model: nn.Module, kept: Masks, example: Inputs, output: Selector) -> Routes:
        """Of a network in which these weights are left."""
        size: Size = mean_weight
        kernels, connected_dense = dense_kernels(model, example, output=output)
        if not connected_dense:
            size = largest_weight
            kernels, connected_dense = dense_kernels(model, example, output=output, size=size)
        tables, norms = _zero_columns(model, example, kept), _zero_norms(model)
        alive, connected, uses = walk(model, kept | tables, example, output=output, size=size)
        lit, silenced = alive, False
        if norms and connected:
            every = kept | tables | norms
            lit, lives, _ = walk(model, every, example, output=output, size=size)
            silenced = not lives
        cuts = cut_layers(model, example, output=output, size=size)
        return cls(
            *(kernels, connected_dense, connected, alive, lit, silenced),
            *(tables, norms, uses, cuts, size),
        )

    def reaches(self, layer: str) -> bool:
        """Whether a path of the dense network crosses a layer."""
        return bool(self.kernels[layer].any())

    def verdict(self, layer: str, mask: Tensor, nonfinite: int) -> Verdict:
        """What is the matter with a layer, the first that applies.

        Args:
            mask: of its weights.
            nonfinite: how many of these are no finite numbers.
        """
        if nonfinite:
            return "not finite"
        if not mask.numel():
            return "empty"
        if not self.reaches(layer):
            return "not reached" if self.connected_dense else "cut off"
        if not count(mask):
            return "empty"
        if not count(self.alive[layer]):
            return "dead" if self.connected else "cut off"
        return "healthy" if count(self.lit[layer]) else "silent"

    def frontier(self) -> tuple[str, str] | None:
        """The first layer that is reached and passes nothing on, and the last one that does."""
        before = None
        for name, parts in self.uses.items():
            if any(bool(use.reached_out.any()) for use in parts):
                before = name
            elif before is not None:
                return name, before
        return None


def _zero_columns(model: nn.Module, example: Inputs, layers: Masks) -> Masks:
    """Embeddings with columns of zeros, which stop what the input looks up there.

    Rows do not count: which are looked up is the data's, and a padding row is zero on purpose.
    """
    found: Masks = {}
    if first_tensor(example).is_floating_point():
        return found
    names = {id(p): name for name, p in model.named_parameters()}
    for module in model.modules():
        name = names.get(id(getattr(module, "weight", None)))
        if isinstance(module, nn.Embedding) and name is not None and name not in layers:
            columns = (module.weight.detach() != 0).any(0)
            if not bool(columns.all()):
                found[name] = columns.expand(module.weight.shape)
    return found


def _zero_norms(model: nn.Module) -> Masks:
    """The weights of normalisations (vectors called weight, but for slopes) that have zeros."""
    slopes = {id(m.weight) for m in model.modules() if isinstance(m, nn.PReLU)}
    return {
        name: p.detach() != 0
        for name, p in model.named_parameters()
        if p.ndim == 1
        and name.rpartition(".")[2] == "weight"
        and id(p) not in slopes
        and not bool((p != 0).all())
    }
