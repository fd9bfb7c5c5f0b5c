"""Plots of the commands (``--plot``), in the style that the figures share."""

from collapse.plots.diagnostics import (
    critical_bars,
    layer_means,
    score_against_inverse_size,
    score_dynamics,
)
from collapse.plots.fits import line_of_logs
from collapse.plots.style import save

__all__ = [
    "critical_bars",
    "layer_means",
    "line_of_logs",
    "save",
    "score_against_inverse_size",
    "score_dynamics",
]
