"""Masks: counts, exact-k selection, application, files.

A mask is a boolean tensor by parameter name; True is kept. Of equal scores the one that comes
first is kept: parameters in the model's order, then flat index. There is no minimum a layer.
"""

from collapse.masks.counts import (
    collapsed,
    dense,
    density,
    keep_count,
    kept,
    kept_by_layer,
    sizes,
    sums,
    total,
)
from collapse.masks.lowest import drop_lowest, in_memory_order, like
from collapse.masks.on_models import (
    applied,
    apply,
    check_fit,
    load_masks,
    save_masks,
    to_torch_prune,
)
from collapse.masks.selection import first_to_collapse, gather, select, select_with_mass
from collapse.masks.shares import apportion

__all__ = [
    "applied",
    "apply",
    "apportion",
    "check_fit",
    "collapsed",
    "dense",
    "density",
    "drop_lowest",
    "first_to_collapse",
    "gather",
    "in_memory_order",
    "keep_count",
    "kept",
    "kept_by_layer",
    "like",
    "load_masks",
    "save_masks",
    "select",
    "select_with_mass",
    "sizes",
    "sums",
    "to_torch_prune",
    "total",
]
