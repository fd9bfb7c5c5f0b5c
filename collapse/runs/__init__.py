"""Runs: what one is called, performing it, and its folder."""

from collapse.runs.execution import TimeLimitError, perform
from collapse.runs.experiment import Experiment
from collapse.runs.folder import Run, RunBusyError

__all__ = ["Experiment", "Run", "RunBusyError", "TimeLimitError", "perform"]
