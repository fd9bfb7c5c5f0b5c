"""Maximal and critical compression: how far can a pruner go before a layer collapses?"""

from collapse.critical.result import Critical
from collapse.critical.search import critical_compression

__all__ = ["Critical", "critical_compression"]
