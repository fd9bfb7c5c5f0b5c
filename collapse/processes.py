"""Processes of a command: what each does for speed, and how several share independent tasks.

A row of a table is many small operations, which two threads do hardly faster than one: two rows at
once, with a thread each, take half of the time of one after the other (docs/performance.md).
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from collapse.errors import RequestError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

Task = TypeVar("Task")
Answer = TypeVar("Answer")
Known = TypeVar("Known", contravariant=True)
# Told what is going on, and which share of it is done, from 0 to 1.
Update = Callable[[str, float], None]


# Processes without --jobs, because each of them holds the network.
JOBS = 2
# Seconds: a few times what a new process takes to import torch and to build a network.
WORTH_A_PROCESS = 15.0
LEAVING = 5.0  # seconds that another process has to end in
# Of glibc's malloc.h: mallopt's number of each option, and the value that it gets here.
_ALLOCATOR = {
    "MALLOC_TRIM_THRESHOLD_": (-1, -1),  # never give back the end of the heap
    "MALLOC_MMAP_THRESHOLD_": (-3, 2**25),  # only blocks above 32 MiB do not come from there
}


def unwatched(text: str, share: float) -> None:
    """An ``Update`` that tells nobody."""


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next tensor, for the rest of this process.

    By default glibc returns a large block to the system as soon as it is freed, and the system
    clears every page of the next one: a tenth to a fifth of the time of training or pruning on a
    CPU (docs/performance.md). Does nothing with another C library, or where the environment says
    what malloc should do.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for variable, (option, value) in _ALLOCATOR.items():
            if variable not in os.environ:
                mallopt(option, value)


def share_cores() -> None:
    """Have OpenMP's threads sleep while they wait for each other; read when torch is imported.

    By default they spin. Where another process has one of the cores, each of a search's many small
    operations then waits until that core is free: four times as long (docs/performance.md).
    ``OMP_WAIT_POLICY`` in the environment has the last word.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def check_jobs(asked: int) -> None:
    """Raise RequestError for fewer than one process."""
    if asked < 1:
        raise RequestError(f"--jobs: expected at least 1, got {asked}")


def jobs_of(asked: int | None, device: object, seconds: float) -> int:
    """How many processes to use for work of so many seconds, about.

    Without a wish: as many as there are threads, ``JOBS`` at most; one on a GPU, which tasks would
    only share, and where starting another takes as long as the work.

    Raises:
        RequestError: fewer than one is asked for.
    """
    if asked is not None:
        check_jobs(asked)
        return asked
    import torch

    if str(device) != "cpu" or seconds < WORTH_A_PROCESS:
        return 1
    return min(JOBS, torch.get_num_threads())


class Agenda(Protocol[Task, Known]):
    """Which tasks there are to do, from the answers so far; a task is hashable."""

    def needed(self, answers: Mapping[Task, Known]) -> Sequence[Task]:
        """Tasks to do, the first to begin with first; none when everything is done."""

    def guesses(self, answers: Mapping[Task, Known], count: int) -> Sequence[Task]:
        """Up to ``count`` tasks that may come to be needed: for who has nothing else to do."""

    def share(self, shares: Mapping[Task, float]) -> float:
        """Which share of everything is done, from that of each task that was begun, 0 to 1."""


class Listed(Generic[Task]):
    """Tasks that are all known before the first is begun.

    Args:
        tasks: in the order to begin them in.
        costs: of each, about, in any unit: the bar is in proportion. All the same without.
    """

    def __init__(self, tasks: Sequence[Task], costs: Sequence[float] = ()) -> None:
        self._costs = dict(zip(tasks, costs or [1.0] * len(tasks), strict=True))

    def needed(self, answers: Mapping[Task, object]) -> Sequence[Task]:
        """Those without an answer."""
        return [task for task in self._costs if task not in answers]

    def guesses(self, answers: Mapping[Task, object], count: int) -> Sequence[Task]:
        """None."""
        return []

    def share(self, shares: Mapping[Task, float]) -> float:
        """In proportion to what they cost."""
        done = sum(self._costs[task] * share for task, share in shares.items())
        return done / sum(self._costs.values())


def shared_out(
    work: Callable[[Task, Update], Answer],
    agenda: Agenda[Task, Any],
    jobs: int,
    update: Update,
) -> dict[Task, Answer]:
    """Do what is on an agenda in so many processes, this one among them.

    A task whose process is killed is done again in this one. The first error of a task that is
    needed ends all work, and is raised.

    Args:
        work: does a task. With several processes it, the tasks and the answers are pickled, and
            it must not matter in which process a task is done, nor in which order.
        agenda: says what is to be done; the first task is done here.
        jobs: 1 or more. Each process computes with its part of the threads.
        update: told what is going on, and which share of everything is done.

    Returns:
        The answers, by their tasks. Some may be to guesses that nobody needed.

    Example:
        >>> shared_out(lambda task, watch: task**2, Listed([3, 4]), 1, lambda text, share: None)
        {3: 9, 4: 16}
    """
    shared = _Shared(work, agenda, jobs, update)
    first = shared.begin()  # here: others have to start first
    with _threads(jobs) as threads, _others(jobs - 1, work, threads) as lines:
        try:
            for line in lines:
                threading.Thread(target=shared.serve, args=(line,), daemon=True).start()
            shared.help_out(first)
        finally:
            shared.leaving.set()  # also where this process is interrupted
    if shared.failure is not None:
        raise shared.failure
    return shared.answers


class _OverError(Exception):
    """What this process is at is needed no more."""


class _Shared:
    """What this process and others take from one agenda, and what became of it.

    A thread of this process serves each of the others.

    Attributes:
        answers: by their tasks.
        failure: the error of a task that was needed; after it no further task begins.
        leaving: set when the others are about to be stopped, so that no word is due on that.
    """

    def __init__(
        self,
        work: Callable[[Any, Update], Any],
        agenda: Agenda[Any, Any],
        jobs: int,
        update: Update,
    ) -> None:
        self._work, self._agenda, self._jobs, self._update = work, agenda, jobs, update
        self.answers: dict[Any, Any] = {}
        self.failure: Exception | None = None
        self.leaving = threading.Event()
        self._errors: dict[Any, Exception] = {}
        self._shares: dict[Any, float] = {}  # of what was begun
        self._needed = agenda.needed(self.answers)
        self._changed = threading.Condition()  # holds the lock on all of this, too

    @property
    def _over(self) -> bool:
        return self.failure is not None or not self._needed

    def begin(self) -> Any:
        """A task that is no one else's from now on, as soon as there is one; None at the end."""
        with self._changed:
            while not self._over:
                guesses = self._agenda.guesses(self.answers, self._jobs)
                for task in itertools.chain(self._needed, guesses):
                    if task not in self._shares:
                        self._shares[task] = 0.0
                        return task
                self._changed.wait()
        return None

    def serve(self, line: Connection) -> None:
        """Hand tasks to another process, for as long as there are any and it lives."""
        while (task := self.begin()) is not None:
            try:
                line.send(task)
                while len(message := line.recv()) > 1:
                    self._watch(task, *message)
                self._finish(task, *message)
            # It was killed, or its answer cannot be pickled, or, when it is unpickled here, raises
            # whatever it likes: nothing is lost, because the task is done again.
            except Exception as error:
                if not self.leaving.is_set():
                    print(f"another process stopped ({error!r}); going on here", file=sys.stderr)
                with self._changed:
                    del self._shares[task]
                    self._changed.notify_all()
                return
        line.close()

    def help_out(self, task: Any) -> None:
        """Do this task here, and others for as long as there are any."""
        while task is not None:
            try:
                self._finish(task, self._work(task, partial(self._here, task)))
            except _OverError:
                return
            except Exception as error:  # a user's pruner may raise anything; raised at the end
                self._finish(task, error)
            task = self.begin()

    def _here(self, task: Any, text: str, share: float) -> None:
        if self._over:  # an error elsewhere, or this was a guess
            raise _OverError
        self._watch(task, text, share)

    def _watch(self, task: Any, text: str, share: float) -> None:
        with self._changed:
            self._shares[task] = share
            self._update(text, self._agenda.share(self._shares))

    def _finish(self, task: Any, answer: object) -> None:
        with self._changed:
            self._shares[task] = 1.0
            if isinstance(answer, Exception):
                self._errors[task] = answer
            else:
                self.answers[task] = answer
                self._needed = self._agenda.needed(self.answers)
            # The error of a guess counts once it is needed.
            failed = [self._errors[task] for task in self._needed if task in self._errors]
            self.failure = self.failure or next(iter(failed), None)
            self._changed.notify_all()


@contextlib.contextmanager
def _threads(jobs: int) -> Iterator[int]:
    """Compute with this process's part of the threads, and say how many these are."""
    import torch

    before = torch.get_num_threads()
    threads = max(1, before // jobs)
    torch.set_num_threads(threads)
    try:
        yield threads
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _others(
    count: int, work: Callable[[Any, Update], Any], threads: int
) -> Iterator[list[Connection]]:
    """Processes that work, and a line to each; they end with the block, however it ends."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")  # a fork has no threads, but their locks
    lines, processes = [], []
    try:
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, work))
            with _environment(OMP_NUM_THREADS=str(threads)), _no_main():
                process.start()
            there.close()  # so that its end is seen
            lines.append(here)
            processes.append(process)
        yield lines
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(LEAVING)
            process.kill()


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """A process that is started in this block does not run the user's script again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Of a process that is started in this block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _work(line: Connection, work: Callable[[Any, Update], Any]) -> None:
    """Another process: do what comes over the line until that is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever shares out ends this process, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # what is open is closed

    from multiprocessing import parent_process

    threading.Thread(target=_leave_with, args=(parent_process(),), daemon=True).start()
    keep_freed_memory()

    def watch(text: str, share: float) -> None:
        line.send((text, share))

    with contextlib.suppress(Exception):  # the line is closed, or an answer cannot be pickled
        while True:
            task = line.recv()
            try:
                answer = work(task, watch)
            except Exception as error:  # whatever it is, the caller is told, and raises it
                error.add_note(traceback.format_exc())
                answer = error
            line.send((answer,))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is open, and Python may be leaving


def _leave_with(parent: BaseProcess) -> None:
    """Whatever killed it: nobody waits for what this process is at."""
    parent.join()
    os._exit(1)
