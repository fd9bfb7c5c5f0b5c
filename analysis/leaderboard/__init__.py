"""Every pruner at initialisation on one footing: a row for each network and pruner.

Every number comes from the engine's own commands: ``critical``, ``conservation``, ``prune`` and
``train``. A pruner that fails says so in its row, and the others stand.
"""

from analysis.leaderboard.board import (
    PRESETS,
    TABLE,
    Board,
    board,
    registered,
)
from analysis.leaderboard.page import page

__all__ = ["PRESETS", "TABLE", "Board", "board", "page", "registered"]
