"""Iterative magnitude pruning with rewinding, and what training does to the scores."""

from collapse.imp.dynamics import EVERY, Dynamics, conserved_table, conserving_units
from collapse.imp.rounds import TABLES, State, Tickets, check, check_rounds, frames, imp

__all__ = [
    "EVERY",
    "TABLES",
    "Dynamics",
    "State",
    "Tickets",
    "check",
    "check_rounds",
    "conserved_table",
    "conserving_units",
    "frames",
    "imp",
]
