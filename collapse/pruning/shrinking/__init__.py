"""A physically smaller network from a masked one."""

from collapse.pruning.shrinking.network import Shrunk, shrink, shrunk

__all__ = ["Shrunk", "shrink", "shrunk"]
