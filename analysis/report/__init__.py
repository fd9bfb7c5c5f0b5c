"""One page about one network."""

from analysis.report.gather import Report, reasons
from analysis.report.page import commands, render

__all__ = ["Report", "commands", "reasons", "render"]
