"""Dead weights, and whether a network is connected: input→output paths of kept weights."""

from collapse.connectivity.dead_weights import (
    Size,
    connected,
    constant,
    is_cut_layer,
    largest_weight,
    living,
    mean_weight,
    paths,
    reach,
    size_of,
)
from collapse.connectivity.noise import noisy, there, uneven
from collapse.connectivity.replacements import ConnectionMode

__all__ = [
    "ConnectionMode",
    "Size",
    "connected",
    "constant",
    "is_cut_layer",
    "largest_weight",
    "living",
    "mean_weight",
    "noisy",
    "paths",
    "reach",
    "size_of",
    "there",
    "uneven",
]
