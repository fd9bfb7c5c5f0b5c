"""How far our results agree with the published ones, and where collapse first occurs in both."""

from analysis.agreement.collapses import GRID_STEP, First, alike, first_empty, looked
from analysis.agreement.comparisons import (
    COMPARISONS,
    FEWEST_KEPT,
    KINDS,
    LOG10_DENSITY,
    OF_LOG_SOFTMAX,
    Comparison,
    compare,
)

__all__ = [
    "COMPARISONS",
    "FEWEST_KEPT",
    "GRID_STEP",
    "KINDS",
    "LOG10_DENSITY",
    "OF_LOG_SOFTMAX",
    "Comparison",
    "First",
    "alike",
    "compare",
    "first_empty",
    "looked",
]
