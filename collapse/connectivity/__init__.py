"""Dead weights, and whether a network is connected: input→output paths of kept weights."""

from collapse.connectivity.noise import noisy
from collapse.connectivity.replacements import (
    ConnectionMode,
    connected,
    constant,
    is_cut_layer,
    living,
    mean_weight,
    paths,
    reach,
)

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
]
