"""Files that are either whole or not there.

Tensors with a checksum are in ``files.checksums``, which needs torch; nothing else here does.
"""

from collapse.files.writing import (
    PLOT_SUFFIXES,
    TABLE_SUFFIXES,
    atomic,
    check_distinct,
    check_writable,
)

__all__ = ["PLOT_SUFFIXES", "TABLE_SUFFIXES", "atomic", "check_distinct", "check_writable"]
