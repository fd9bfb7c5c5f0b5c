"""The points of an experiment, one by one: what is done is never done again.

A point is either something measured at initialisation, kept in a file of its own under
``RUNS/points``, or one training, kept in its run folder. Killed at any moment, an experiment goes
on with the point that it was at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from analysis.sweeps import sweeping
from collapse import cli, tables
from collapse.errors import RequestError
from collapse.files import check_writable
from collapse.options import Execution
from collapse.processes import Update
from collapse.tables import SCHEMA_VERSION

if TYPE_CHECKING:
    import pandas as pd

    from collapse.imp import State
    from collapse.runs import Experiment, Run


@dataclass(frozen=True)
class Resources:
    """What an experiment's points are done with.

    Attributes:
        execution: folder of runs, progress, and how to train.
        device: that the numbers come from, for the files.
        so_far: only collect what is there.
        time_limit: seconds left when asked, for work within a budget; None for no limit.
        say: told about points that failed.
    """

    execution: Execution = field(default_factory=lambda: Execution(quiet=True))
    device: str = "cpu"
    so_far: bool = False
    time_limit: Callable[[], float] | None = None
    say: Callable[[str], None] = sweeping.say


class Point(Protocol):
    """One point: where it stands in the table, and how to get its rows."""

    @property
    def row(self) -> dict[str, Any]:
        """What the table says of a point that is not finished."""

    @property
    def about(self) -> str:
        """A word for the progress bar."""

    @property
    def work(self) -> int:
        """How much it is beside other points: epochs of training, or 1."""

    def stored(self, resources: Resources) -> pd.DataFrame | None:
        """Its rows, if it is done."""

    def busy(self, resources: Resources) -> bool:
        """Whether another process is at it."""

    def check(self) -> None:
        """Raise RequestError where it cannot be done whatever happens."""

    def compute(self, resources: Resources, update: Update) -> pd.DataFrame | None:
        """Do it, keep it, return its rows; None if it failed (which was said)."""


@dataclass(frozen=True)
class Measured:
    """A point that is measured in one go.

    Attributes:
        table: its table (``tables.COLUMNS``).
        key: JSON-serialisable; everything that its rows depend on.
        row: settings, for a point that is not finished.
        measure: the rows, in the table's columns but for ``finished``.
    """

    table: str
    key: Mapping[str, Any]
    row: dict[str, Any]
    about: str
    measure: Callable[[], pd.DataFrame]
    work: int = 1

    def _path(self, resources: Resources) -> Path:
        what = {"schema_version": SCHEMA_VERSION, "table": self.table, **self.key}
        name = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
        return resources.execution.runs / "points" / f"{name}.parquet"

    def stored(self, resources: Resources) -> pd.DataFrame | None:
        """Its rows; a file that cannot be read is a point to do again."""
        if not self._path(resources).exists():
            return None
        with suppress(RequestError):
            return tables.read(self._path(resources), self.table)[0]
        return None

    def busy(self, resources: Resources) -> bool:
        """Nobody claims a measurement: at worst it is done twice, with the same result."""
        return False

    def check(self) -> None:
        """Measuring raises by itself."""

    def compute(self, resources: Resources, update: Update) -> pd.DataFrame:
        """Measure and keep."""
        update(self.about, 0.0)
        frame = self.measure().assign(finished=True)
        tables.write(frame, self._path(resources), self.table, resources.device)
        update(self.about, 1.0)
        return frame


@dataclass(frozen=True)
class Trained:
    """A point that is one run of training or IMP.

    Attributes:
        rows: of a finished run, from the run itself; in the table's columns but for ``finished``.
    """

    experiment: Experiment
    row: dict[str, Any]
    about: str
    rows: Callable[[Any], pd.DataFrame]

    @property
    def work(self) -> int:
        """Its epochs, over all levels."""
        return max(1, self.experiment.epochs())

    def stored(self, resources: Resources) -> pd.DataFrame | None:
        """The rows of its run, if that has finished."""
        run = self.experiment.run(resources.execution.runs)
        if not (run.folder / "done.json").exists():
            return None
        with suppress(RequestError):  # a damaged result: doing it moves it aside
            return self.rows(run).assign(finished=True)
        return None

    def busy(self, resources: Resources) -> bool:
        """Whether another process holds its run."""
        return self.experiment.run(resources.execution.runs).busy()

    def check(self) -> None:
        """A request that is wrong is no run that failed."""
        self.experiment.check()

    def compute(self, resources: Resources, update: Update) -> pd.DataFrame | None:
        """Do the run, from its last epoch if it was begun."""

        def boundary(state: State) -> None:
            text = f"{self.about}, level {state.level}, epoch {state.epoch}"
            update(text, state.trained / self.work)

        limit = None if resources.time_limit is None else resources.time_limit()
        update(self.about, 0.0)
        outcome = sweeping.work(
            self.experiment, resources.execution, wait=True, time_limit=limit, on_boundary=boundary
        )
        if outcome.state != "done":
            resources.say(f"{self.about}: {outcome.message}")
            return None
        return self.stored(resources)


@dataclass(frozen=True)
class UnlessCut(Trained):
    """A training that is none where its masks cut the network: a constant needs no training.

    Attributes:
        cut: measures the row of a cut network; no row if it is not cut.
    """

    cut: Measured

    def stored(self, resources: Resources) -> pd.DataFrame | None:
        """The row of the cut network if it is known to be cut, else its run's."""
        known = self.cut.stored(resources)
        return known if known is not None and len(known) else super().stored(resources)

    def compute(self, resources: Resources, update: Update) -> pd.DataFrame | None:
        """Look whether it is cut, before it is trained."""
        known = self.if_cut(resources, update)
        return super().compute(resources, update) if known is None else known

    def if_cut(self, resources: Resources, update: Update) -> pd.DataFrame | None:
        """Its row if its masks cut the network, which is found out if it is not known."""
        known = self.cut.stored(resources)
        if known is None:
            known = self.cut.compute(resources, _words_alone(update, 0.0))
        return known if len(known) else None


@dataclass(frozen=True)
class After:
    """A point that is measured on what a training left, and so comes after it.

    Attributes:
        point: of the finished run.
    """

    training: Trained
    row: dict[str, Any]
    about: str
    point: Callable[[Run], Measured]

    @property
    def work(self) -> int:
        """As its training."""
        return self.training.work

    def stored(self, resources: Resources) -> pd.DataFrame | None:
        """Its rows, if the training and it are done."""
        if self.training.stored(resources) is None:
            return None
        return self._measured(resources).stored(resources)

    def busy(self, resources: Resources) -> bool:
        """As its training."""
        return self.training.busy(resources)

    def check(self) -> None:
        """As its training."""
        self.training.check()

    def compute(self, resources: Resources, update: Update) -> pd.DataFrame | None:
        """Train first, if that is not done: beside it, measuring is no work."""
        share = 0.0
        if self.training.stored(resources) is None:
            if self.training.compute(resources, update) is None:
                return None
            share = 1.0
        return self._measured(resources).compute(resources, _words_alone(update, share))

    def _measured(self, resources: Resources) -> Measured:
        return self.point(self.training.experiment.run(resources.execution.runs))


def runner(points: Callable[[Any], Sequence[Point]], table: str) -> Callable[..., pd.DataFrame]:
    """An experiment's ``run(config, resources=None)`` that completes its points, and no more."""

    def run(config: Any, resources: Resources | None = None) -> pd.DataFrame:
        return complete(points(config), table, resources)

    return run


def _words_alone(update: Update, share: float) -> Update:
    """For a look that is no part of the point's work: its share stays as it is."""
    return lambda text, _: update(text, share)


class Progress:
    """How much of the points' work is done; what turns out to be no work is left out.

    A point that is there already, or a network that is cut and so need not be trained, says nothing
    about how long the others take.

    Args:
        update: of ``cli.progress``, with a total of 1.
        work: of each point, where more is known of it than ``Point.work`` tells.
    """

    def __init__(
        self, points: Sequence[Point], update: Update, work: Sequence[float] | None = None
    ) -> None:
        self._update = update
        self._left = dict(enumerate([point.work for point in points] if work is None else work))
        self._done, self._share = 0.0, 0.0

    def of(self, number: int) -> Update:
        """For a point: told what goes on, and the share of the point that is done."""
        self._share = 0.0
        return partial(self._at, number)

    def over(self, number: int) -> None:
        """A point is done, or was."""
        self._done += self._left.pop(number) * self._share
        self._share = 0.0

    def _at(self, number: int, text: str, share: float) -> None:
        self._share = share
        done = self._done + share * self._left[number]
        whole = self._done + sum(self._left.values())
        self._update(text, done / whole if whole else 1.0)  # nothing is trained


def complete(
    points: Sequence[Point], table: str, resources: Resources | None = None
) -> pd.DataFrame:
    """Do every point that is not done, and put their rows together.

    Points without a result (failed, or not done because only what is there was asked for) give one
    row with ``finished`` false and no numbers, so that a figure can say what it lacks.

    Raises:
        RequestError: there is no point, or anything that a point's measuring raises.
    """
    import pandas as pd

    resources = resources or Resources()
    if not points:
        raise RequestError("nothing to do: expected at least one point in this experiment")
    if not resources.so_far:  # say now what cannot be written, not after the first hour
        check_writable(resources.execution.runs / "points" / "any.parquet", (".parquet",))
        resources.execution.check()
        for point in points:
            point.check()
    frames: dict[int, pd.DataFrame] = {}
    with cli.progress(1.0, resources.execution.quiet) as update:
        progress = Progress(points, update)
        for wait in (False, True):  # what another process is at comes last
            for number, point in enumerate(points):
                if number in frames:
                    continue
                frame = point.stored(resources)
                if frame is None and not resources.so_far:
                    if point.busy(resources) and not wait:
                        continue
                    frame = point.compute(resources, progress.of(number))
                progress.over(number)
                if frame is None:
                    frame = pd.DataFrame([{**point.row, "finished": False}])
                frames[number] = frame
    ordered = [frames[number].astype(object) for number in range(len(points))]
    together = pd.concat(ordered, ignore_index=True)
    columns = list(tables.COLUMNS[table])
    more = [column for column in together.columns if column not in columns]
    return together.reindex(columns=[*columns, *more]).infer_objects()
