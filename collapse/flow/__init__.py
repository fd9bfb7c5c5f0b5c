"""The flow of every tensor in one pass through a network, and the laws of the operations."""

from collapse.flow.hidden_units import Closure, linear_closures
from collapse.flow.laws import (
    FOLDS,
    UNITWISE,
    affine,
    carriers,
    created,
    fold,
    incoming,
    law,
    layout_of,
    place,
    sources,
    through_train,
    weight_of,
)
from collapse.flow.recorder import INPUT, Operation, Use, unit_sums, wide
from collapse.flow.trace import Trace, record

__all__ = [
    "FOLDS",
    "INPUT",
    "UNITWISE",
    "Closure",
    "Operation",
    "Trace",
    "Use",
    "affine",
    "carriers",
    "created",
    "fold",
    "incoming",
    "law",
    "layout_of",
    "linear_closures",
    "place",
    "record",
    "sources",
    "through_train",
    "unit_sums",
    "weight_of",
    "wide",
]
