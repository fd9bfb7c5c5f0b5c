"""The flow of every tensor in one pass through a network, and the laws of the operations."""

from collapse.flow.hidden_units import HiddenUnits, Places, hidden_units
from collapse.flow.laws import (
    UNITWISE,
    affine,
    carriers,
    created,
    incoming,
    law,
    layout_of,
    place,
    sources,
    through_train,
    weight_of,
)
from collapse.flow.operations import INPUT, Flow, Operation, Origin, Use
from collapse.flow.taps import unit_sums
from collapse.flow.trace import Trace, record

__all__ = [
    "INPUT",
    "UNITWISE",
    "Flow",
    "HiddenUnits",
    "Operation",
    "Origin",
    "Places",
    "Trace",
    "Use",
    "affine",
    "carriers",
    "created",
    "hidden_units",
    "incoming",
    "law",
    "layout_of",
    "place",
    "record",
    "sources",
    "through_train",
    "unit_sums",
    "weight_of",
]
