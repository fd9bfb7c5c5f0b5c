"""Maximal and critical compression: how far can a pruner go before a layer collapses?"""

from collapse.critical.result import Critical, Point
from collapse.critical.search import critical_compression
from collapse.critical.table import frame_of, measure

__all__ = ["Critical", "Point", "critical_compression", "frame_of", "measure"]
