"""Dead weights, and whether a network is connected: input→output paths of kept weights."""

from collapse.connectivity.replacements import connected, is_cut_layer, living, paths

__all__ = ["connected", "is_cut_layer", "living", "paths"]
