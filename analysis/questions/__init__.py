"""The reviewers' questions: answers from tables, with their intervals over seeds."""

from analysis.questions.statistics import Estimate, chance_overlap

__all__ = ["Estimate", "chance_overlap"]
