"""Masks beside masks: union, intersection, and overlap against chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from collapse import tables
from collapse.errors import RequestError
from collapse.files.checksums import digest, plain
from collapse.masks.counts import count
from collapse.models import Masks, prunable

if TYPE_CHECKING:
    import pandas as pd

OVERLAP = tables.declare(
    "mask_overlap",
    *("layer", "layer_index", "parameters", "kept_first", "kept_second", "both", "only_first"),
    *("only_second", "expected_both", "deviations", "jaccard"),
)
COUNTS = tables.declare("masks", "layer", "layer_index", "parameters", "kept", "density")


def count_table(masks: Mapping[str, Tensor]) -> pd.DataFrame:
    """What masks keep, layer by layer: a ``masks`` table."""
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "layer": name,
                "layer_index": index,
                "parameters": mask.numel(),
                "kept": (kept := count(mask)),
                "density": kept / max(1, mask.numel()),
            }
            for index, (name, mask) in enumerate(masks.items(), start=1)
        ]
    )


def check_same(first: Mapping[str, Tensor], second: Mapping[str, Tensor], what: str) -> None:
    """Whether two sets of masks are of one network, by names and shapes.

    Raises:
        RequestError: a layer is missing in one of them, or has another shape.
    """
    for name in (*first, *second):
        if name not in first or name not in second:
            where = "second" if name in first else "first"
            raise RequestError(f"{what} are of different networks: the {where} has no '{name}'")
        if first[name].shape != second[name].shape:
            raise RequestError(
                f"{what} are of different networks: '{name}' has shape "
                f"{tuple(first[name].shape)} and {tuple(second[name].shape)}"
            )


def union(first: Mapping[str, Tensor], *others: Mapping[str, Tensor]) -> Masks:
    """What any of the masks keeps.

    Raises:
        RequestError: masks of different networks.

    Example:
        >>> union({"a": torch.tensor([True, False])}, {"a": torch.tensor([False, False])})
        {'a': tensor([ True, False])}
    """
    return reduce(partial(_layer_by_layer, torch.logical_or), others, {**first})


def intersection(first: Mapping[str, Tensor], *others: Mapping[str, Tensor]) -> Masks:
    """What all of the masks keep.

    Raises:
        RequestError: masks of different networks.

    Example:
        >>> intersection({"a": torch.tensor([True, True])}, {"a": torch.tensor([False, True])})
        {'a': tensor([False,  True])}
    """
    return reduce(partial(_layer_by_layer, torch.logical_and), others, {**first})


def difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Masks:
    """What the first masks keep and the second do not.

    Raises:
        RequestError: masks of different networks.

    Example:
        >>> difference({"a": torch.tensor([True, True])}, {"a": torch.tensor([False, True])})
        {'a': tensor([ True, False])}
    """
    return _layer_by_layer(lambda a, b: a & ~b, first, second)


def _layer_by_layer(
    function: Callable[[Tensor, Tensor], Tensor],
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
) -> Masks:
    check_same(first, second, "masks")
    return {name: function(mask, second[name]) for name, mask in first.items()}


def overlap(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> pd.DataFrame:
    """How many weights two masks share, layer by layer, against what chance would share.

    Two masks drawn at random with ``a`` and ``b`` of ``n`` kept share a hypergeometric number:
    ``a b / n`` of them, with variance ``a b (n - a) (n - b) / (n² (n - 1))``.

    Returns:
        A ``mask_overlap`` table: a row a layer. ``deviations`` is how far ``both`` lies from
        ``expected_both`` in standard deviations (None where chance leaves no choice), ``jaccard``
        both / either (None where neither keeps anything).

    Raises:
        RequestError: masks of different networks, or none.

    Example:
        >>> half = {"a": torch.tensor([True, True, False, False])}
        >>> overlap(half, half)[["both", "expected_both"]].values.tolist()
        [[2.0, 1.0]]
    """
    import pandas as pd

    check_same(first, second, "masks")
    if not first:
        raise RequestError("masks are empty: expected one mask a layer")
    rows = []
    for index, (name, mask) in enumerate(first.items(), start=1):
        n, a, b = mask.numel(), count(mask), count(second[name])
        both = count(mask & second[name])
        spread = math.sqrt(a * b * (n - a) * (n - b) / (n * n * (n - 1))) if n > 1 else 0.0
        expected = a * b / n if n else 0.0
        either = a + b - both
        rows.append(
            {
                "layer": name,
                "layer_index": index,
                "parameters": n,
                "kept_first": a,
                "kept_second": b,
                "both": both,
                "only_first": a - both,
                "only_second": b - both,
                "expected_both": expected,
                "deviations": (both - expected) / spread if spread else None,
                "jaccard": both / either if either else None,
            }
        )
    return pd.DataFrame(rows).astype({"deviations": "float64", "jaccard": "float64"})


def weights_identity(model: nn.Module) -> str:
    """SHA-256 of a network's prunable weights: which initial weights masks were made for."""
    return digest(plain(prunable(model)))
