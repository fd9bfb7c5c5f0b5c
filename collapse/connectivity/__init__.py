"""Dead weights, and whether a network is connected: input→output paths of kept weights."""

from collapse.connectivity.dead_weights import (
    connected,
    constant,
    is_cut_layer,
    living,
    mean_weight,
    paths,
    reach,
)
from collapse.connectivity.noise import noisy, there, uneven
from collapse.connectivity.replacements import ConnectionMode

__all__ = [
    "ConnectionMode",
    "connected",
    "constant",
    "is_cut_layer",
    "living",
    "mean_weight",
    "noisy",
    "paths",
    "reach",
    "there",
    "uneven",
]
