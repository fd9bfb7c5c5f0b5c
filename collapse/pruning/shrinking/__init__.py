"""A physically smaller network from a masked one."""

from collapse.pruning.shrinking.network import Shrunk, own_names, shrink, shrunk
from collapse.pruning.shrinking.report import compare

__all__ = ["Shrunk", "compare", "own_names", "shrink", "shrunk"]
