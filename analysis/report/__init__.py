"""One page about one network."""

from analysis.report.facts import Facts, facts_of
from analysis.report.gather import Report, gather
from analysis.report.page import render
from analysis.report.reproducing import commands
from analysis.report.verdict import Verdict, at_compression, reason, verdict

__all__ = [
    "Facts",
    "Report",
    "Verdict",
    "at_compression",
    "commands",
    "facts_of",
    "gather",
    "reason",
    "render",
    "verdict",
]
