"""Rows of the table as tasks for several processes: of a search, each pruning is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from collapse.critical.course import Course
from collapse.critical.family import Family
from collapse.critical.result import Critical
from collapse.critical.search import with_notes
from collapse.critical.trials import Trial, concluded, course, is_searched, trial, verdicts
from collapse.options import Pruning


class Task(NamedTuple):
    """A row of the table, or one further pruning of its search.

    Attributes:
        plan: the pruner of the row, its settings and its seed.
        keep: how many parameters to prune to; None for the row, or the beginning of its search.
    """

    plan: Pruning
    keep: int | None = None


@dataclass(frozen=True)
class Opened:
    """The beginning of a search.

    Attributes:
        course: what it tests.
        trials: its first pruning, by the number to keep; none where nothing can be pruned.
    """

    course: Course
    trials: dict[int, Trial]

    @classmethod
    def of(cls, family: Family, scan: int, tolerance: float) -> Opened:
        """Of a pruner on a network: the maximum is tried."""
        search = course(family, scan, tolerance)
        return cls(search, {keep: trial(family, keep) for keep in search.ahead({}, 1)})


class Answer(NamedTuple):
    """What came of a task.

    Attributes:
        found: a row, the beginning of a search, or one of its prunings; or the error of any.
        seconds: how long it took.
    """

    found: Critical | str | Opened | Trial
    seconds: float


class Rows:
    """The rows that ``processes.shared_out`` is to do, and how far each is.

    Args:
        costs: of each row, about, in any unit, in the order to begin them in.
        scan: as of the searches.
    """

    def __init__(self, costs: Mapping[Pruning, float], scan: int) -> None:
        self._costs = costs
        self._expected = {plan: 1 + scan if is_searched(plan) else 1 for plan in costs}

    def needed(self, answers: Mapping[Task, Answer]) -> list[Task]:
        """The next task of every row that has one."""
        return [task for plan in self._costs for task in self._next(plan, answers, 1)]

    def guesses(self, answers: Mapping[Task, Answer], count: int) -> list[Task]:
        """Prunings that searches may ask for later, of the dearest row first."""
        return [task for plan in self._costs for task in self._next(plan, answers, count)[1:]]

    def share(self, shares: Mapping[Task, float]) -> float:
        """A row is as far as the prunings that its search needs, about."""
        done = dict.fromkeys(self._costs, 0.0)
        for task, share in shares.items():
            done[task.plan] += share / self._expected[task.plan]
        whole = sum(self._costs.values())
        return sum(min(1.0, done[plan]) * cost for plan, cost in self._costs.items()) / whole

    def _next(self, plan: Pruning, answers: Mapping[Task, Answer], count: int) -> list[Task]:
        row = answers.get(Task(plan))
        if row is None:
            return [Task(plan)]
        if not isinstance(row.found, Opened):
            return []
        course, trials = row.found.course, trials_of(plan, answers)
        self._expected[plan] = max(1, course.expected(verdicts(trials)))
        tasks = [Task(plan, keep) for keep in course.ahead(verdicts(trials), count)]
        return [] if tasks and tasks[0] in answers else tasks  # an error, of what it needs next


def trials_of(plan: Pruning, answers: Mapping[Task, Answer]) -> dict[int, Trial]:
    """The prunings of a row's search so far, by the number to keep."""
    opened = answers[Task(plan)].found
    assert isinstance(opened, Opened)
    further = {
        task.keep: answer.found
        for task, answer in answers.items()
        if task.plan == plan and task.keep is not None and isinstance(answer.found, Trial)
    }
    return {**opened.trials, **further}


def error_of(plan: Pruning, answers: Mapping[Task, Answer]) -> str | None:
    """The error that ended a row, if one did; one in a guess that nobody needed does not."""
    found = answers[Task(plan)].found
    if isinstance(found, Opened):
        needed = found.course.ahead(verdicts(trials_of(plan, answers)), 1)
        found = answers[Task(plan, needed[0])].found if needed else found
    return found if isinstance(found, str) else None


def row_of(family: Family, answers: Mapping[Task, Answer]) -> tuple[Critical, float]:
    """What a row's tasks found in all, and the seconds that those took that were needed."""
    plan = family.options
    found, seconds = answers[Task(plan)]
    if isinstance(found, Critical):
        return found, seconds
    assert isinstance(found, Opened)
    trials = trials_of(plan, answers)
    tested = found.course.found(verdicts(trials)).tested
    further = [answers[Task(plan, keep)] for keep in tested if keep not in found.trials]
    whole = with_notes(concluded(family, found.course, trials), family.problem)
    return whole, seconds + sum(answer.seconds for answer in further)
