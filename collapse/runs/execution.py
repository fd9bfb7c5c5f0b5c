"""Performing a run from where it stands.

What ``python -m collapse.imp``, ``python -m collapse.train`` and every sweep call.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from collapse import masks as masking
from collapse.data import Dataset
from collapse.devices import deterministic, has_bfloat16
from collapse.errors import RequestError, first_line
from collapse.files.checksums import CorruptRunError
from collapse.imp import State, check, imp
from collapse.models import Masks
from collapse.options import Control, Execution
from collapse.problem import Problem, prepare
from collapse.pruning import controls
from collapse.runs.experiment import Experiment
from collapse.runs.folder import Run, say
from collapse.scores import needs_labels


class TimeLimitError(RequestError):
    """A run took longer than it may; it can go on from its last saved state."""


class _TimeIsUp(BaseException):
    """Raised wherever the run is; no handler of ordinary exceptions may swallow it."""


def perform(
    experiment: Experiment,
    execution: Execution | None = None,
    *,
    on_boundary: Callable[[State], None] | None = None,
    wait: bool = False,
    time_limit: float | None = None,
) -> Run:
    """Do a run unless it is done, from where it stands; the results are in its folder.

    Args:
        on_boundary: called after every epoch.
        wait: for another process that works on it, instead of leaving.
        time_limit: seconds; only in a process's main thread.

    Raises:
        RunBusyError: another process works on it.
        TimeLimitError: see above.
        RequestError: anything that preparing and training raise; noted in the run's folder.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from collapse.options import Setup, Training
        >>> setup = Setup("fc", "gaussian", input_shape=(1, 4, 4), classes=2)
        >>> short = Training(epochs=1, train_samples=20, test_samples=20)
        >>> with TemporaryDirectory() as folder:
        ...     quietly = Execution(runs=Path(folder), quiet=True)
        ...     run = perform(Experiment(setup, training=short), quietly)
        ...     run.status()["state"]
        'done'
    """
    execution = execution or Execution()
    execution.check()
    run = experiment.run(execution.runs)
    try:
        if run.done():
            run.tidy()
            return run
    except CorruptRunError:
        pass  # claiming it moves it aside
    # Whatever is wrong with the request shows here, before the run's folder is touched.
    prepared = _prepared(experiment)
    device, settings = prepared.device, experiment.settings()
    precision = "bfloat16" if has_bfloat16(device, settings.precision) else "float32"
    of_data = [split.note for split in experiment.datasets() if split.note]
    notes = list(dict.fromkeys([*prepared.notes, *of_data]))
    with run.claimed(str(device), precision=precision, notes=notes, wait=wait) as state:
        if (run.folder / "done.json").exists():  # while we waited
            return run
        before = torch.get_num_threads()
        threads = run.threads()
        try:
            if execution.exact and threads is not None:  # sums are divided over threads
                torch.set_num_threads(threads)
            with deterministic(execution.exact), _limited(time_limit):
                _perform(experiment, execution, run, state, prepared, on_boundary)
        except RequestError as error:
            run.fail(str(error))
            raise
        except Exception as error:  # a user's model may raise anything; the run says what
            run.fail(f"{type(error).__name__}: {first_line(error)}")
            raise
        finally:
            torch.set_num_threads(before)
    return run


def _prepared(experiment: Experiment) -> Problem:
    pruning = experiment.pruning
    data_free = not any(map(needs_labels, pruning.pruners)) or experiment.compression == 1
    train, _ = experiment.datasets()
    settings = experiment.settings()
    experiment._check_parts(settings)
    prepared = prepare(experiment.setup, pruning.seed, labelled=not data_free, dataset=train)
    check(masking.sizes(prepared.dense()), experiment.compression, experiment.rewinding, settings)
    return prepared


def _perform(
    experiment: Experiment,
    execution: Execution,
    run: Run,
    state: State | None,
    prepared: Problem,
    on_boundary: Callable[[State], None] | None,
) -> None:
    train, test = experiment.datasets()
    settings = experiment.settings()

    def boundary(state: State) -> None:
        if state.epoch % execution.save_every == 0 or state.epoch == settings.epochs:
            run.save_state(state)
        if on_boundary is not None:
            on_boundary(state)

    masks = prepared.dense()
    if experiment.control is not None and state is None:
        masks = _control(experiment, prepared, experiment.control, train)
    tickets = imp(
        prepared.given,
        train,
        test,
        experiment.compression,
        pruning=experiment.pruning,
        training=settings,
        rewinding=experiment.rewinding,
        batches=prepared.batches,
        masks=masks,
        output=experiment.setup.output,
        compiled=execution.compile,
        shrink=execution.shrink,
        say=say,
        state=state,
        on_boundary=boundary,
    )
    run.finish(tickets.tables, tickets.masks, prepared.given.state_dict())


def _control(experiment: Experiment, prepared: Problem, control: Control, train: Dataset) -> Masks:
    """The control's masks; the model gets its weights."""
    setup, pruning = experiment.setup, experiment.pruning
    masks = controls.masks_of(prepared, (), pruning, experiment.compression, control)
    if control == "reinitialised":
        classes = setup.classes or train.classes
        controls.reinitialise(prepared.given, setup, train.input_shape, classes, pruning.seed)
    return masks


@contextmanager
def _limited(seconds: float | None) -> Iterator[None]:
    """Stop the block after so many seconds with TimeLimitError, wherever it is."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    if seconds <= 0:  # a timer of 0 would never ring
        raise TimeLimitError("no time is left: it goes on when run again")

    def stop(number: int, frame: FrameType | None) -> None:
        raise _TimeIsUp

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _TimeIsUp:
        raise TimeLimitError(
            f"time limit of {seconds:g} s reached; it goes on from its last epoch when run again"
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
