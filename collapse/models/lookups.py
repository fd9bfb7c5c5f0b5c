"""Where the ids of tokens enter a network: the tables that they are looked up in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from collapse.errors import RequestError
from collapse.models.batches import Ones, is_integer, tensors_in

# They write into their first argument what another one says.
_WRITES = frozenset({Tensor.__setitem__, Tensor.copy_})
# They take no more than a form from the ids: all of these, and those from their second argument.
_CREATIONS = ("new_", "zeros_like", "ones_like", "empty_like", "full_like", "rand")
_FORMS = ("expand_as", "view_as", "reshape_as", "type_as")


class Lookups(TorchFunctionMode):
    """Inside it, looking up ids of the input gives ones in place of a table's rows.

    Ids are followed through whatever makes integers of them (shifts, reshapes, slices); positions
    counted by the forward are none. A network that says which its token tables are (Hugging Face's
    ``get_input_embeddings``) has no others: positions and segments keep their rows.

    Args:
        model: what runs, on ``tensors``.
        ones: the input.

    Attributes:
        entered: whether anything was looked up.
    """

    def __init__(self, model: nn.Module, tensors: Mapping[str, Tensor], ones: Ones) -> None:
        super().__init__()
        self._ids = {id(x): x for x in ones.ids()}  # held, so that ids stay
        self._ones = ones
        offered = set(_offered(model))
        names = {id(p): name for name, p in model.named_parameters()}
        self._tables = {id(tensors[names[i]]) for i in offered if i in names}
        self._rows = {id(tensors[name]) for name in _only_looked_up(model, ones.scored)}
        self.entered = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():  # what is traced goes on without us
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        given = args[:1] if name in _FORMS else (args, kwargs)
        if name.startswith(_CREATIONS) or not any(map(self._is_id, tensors_in(given))):
            return func(*args, **kwargs)
        if func in (F.embedding, F.embedding_bag):
            bound = inspect.signature(func).bind(*args, **kwargs)
            ids, table = bound.arguments["input"], bound.arguments["weight"]
            if self._is_id(ids) and (not self._tables or id(table) in self._tables):
                return self._entering(func, table, bound)
        result = func(*args, **kwargs)
        changed = args[0] if func in _WRITES else result
        self._ids.update({id(x): x for x in tensors_in(changed) if is_integer(x)})
        return result

    def _is_id(self, x: Tensor) -> bool:
        return id(x) in self._ids

    def _entering(
        self, func: Callable[..., Any], table: Tensor, call: inspect.BoundArguments
    ) -> Tensor:
        self.entered = True
        if id(table) in self._rows:
            return self._ones.enter(func(*call.args, **call.kwargs))
        with torch._C.DisableTorchFunction():  # no operation of the network's
            one = torch.full((), self._ones.value, dtype=table.dtype, device=table.device)
            call.arguments["weight"] = one.expand(table.shape)
            call.arguments.pop("max_norm", None)  # which would write into the table
            return self._ones.enter(func(*call.args, **call.kwargs))

    def check(self) -> None:
        """Raise RequestError where ids were looked up nowhere and nothing else is an input."""
        if self._ids and not self.entered and not self._ones.has_numbers():
            raise RequestError(
                "integer inputs never reach an embedding: expected floating-point inputs, or a "
                "forward that looks them up in a table"
            )


def _offered(model: nn.Module) -> Iterator[int]:
    """The token tables that the network's own parts name."""
    for module in model.modules():
        try:
            table = module.get_input_embeddings()  # type: ignore[operator]
        except (AttributeError, NotImplementedError, TypeError):
            continue
        if isinstance(table, nn.Embedding):
            yield id(table.weight)


def _only_looked_up(model: nn.Module, names: Collection[str]) -> Iterator[str]:
    """Those of the parameters that embeddings alone hold; a tied one is a linear map as well."""
    alone: dict[int, bool] = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            looks_up = isinstance(module, nn.Embedding | nn.EmbeddingBag)
            alone[id(p)] = alone.get(id(p), True) and looks_up
    return (name for name, p in model.named_parameters() if name in names and alone[id(p)])
