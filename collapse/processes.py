"""Processes of a command: what each does for speed, and how several share independent tasks.

A row of a table is many small operations, which two threads do hardly faster than one: two rows at
once, with a thread each, take half of the time of one after the other (docs/performance.md).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import traceback
import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from collapse.errors import RequestError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

Task = TypeVar("Task")
Answer = TypeVar("Answer")
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


def shared_out(
    work: Callable[[Task, Update], Answer],
    tasks: Sequence[Task],
    costs: Sequence[float],
    jobs: int,
    update: Update,
) -> list[Answer]:
    """Do every task in up to ``jobs`` processes, this one among them.

    A task whose process is killed is done again in this one. The first error ends all work, and is
    raised.

    Args:
        work: does a task. With several processes it, the tasks and the answers are pickled, and a
            task must not depend on another.
        tasks: begun in this order by one process, the most expensive first by several.
        costs: of each task, about, in any unit: the bar is in proportion.
        jobs: 1 or more. Each process computes with its part of the threads.
        update: told what is going on, and which share of everything is done.

    Returns:
        The answers, in the order of the tasks.

    Example:
        >>> shared_out(lambda task, watch: task**2, [3, 4], [1, 1], 1, lambda text, share: None)
        [9, 16]
    """
    shares = [0.0] * len(tasks)

    def watch(number: int, text: str, share: float) -> None:
        shares[number] = share
        done = sum(cost * part for cost, part in zip(costs, shares, strict=True))
        update(text, done / sum(costs))

    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        return [work(task, partial(watch, number)) for number, task in enumerate(tasks)]
    shared = _Shared(work, tasks, watch, sorted(range(len(tasks)), key=lambda n: -costs[n]))
    longest = shared.begin()  # here: others have to start first
    with _threads(jobs) as threads, _others(jobs - 1, work, threads) as lines:
        serving = [
            threading.Thread(target=shared.serve, args=(line,), daemon=True) for line in lines
        ]
        try:
            for thread in serving:
                thread.start()
            shared.help_out(longest)
            for thread in serving:
                thread.join()
        finally:
            shared.leaving.set()  # also where this process is interrupted
    shared.help_out(shared.begin())  # what a killed process had begun
    if shared.failures:
        raise shared.failures[0]
    return [shared.answers[number] for number in range(len(tasks))]


class _Shared:
    """Tasks that this process and others take from one queue, and what became of them.

    A thread of this process serves each of the others.

    Args:
        watch: told which task, what goes on in it, and which share of it is done.
        order: numbers of tasks, the one to begin with first.

    Attributes:
        failures: errors of tasks; after the first no further task begins.
        leaving: set when the others are about to be stopped, so that no word is due on that.
    """

    def __init__(
        self,
        work: Callable[[Any, Update], Any],
        tasks: Sequence[Any],
        watch: Callable[[int, str, float], None],
        order: Sequence[int],
    ) -> None:
        self._work, self._tasks, self._watch, self._left = work, tasks, watch, deque(order)
        self.answers: dict[int, Any] = {}
        self.failures: list[Exception] = []
        self.leaving = threading.Event()

    def begin(self) -> int | None:
        """The next task, which is no one else's from now on."""
        with contextlib.suppress(IndexError):  # another thread may have taken the last one
            return self._left.popleft()
        return None

    def serve(self, line: Connection) -> None:
        """Hand tasks to another process, for as long as there are any and it lives."""
        while (number := self.begin()) is not None:
            try:
                line.send(self._tasks[number])
                while len(message := line.recv()) > 1:
                    self._watch(number, *message)
                self._finish(number, *message)
            # It was killed, or its answer cannot be pickled, or, when it is unpickled here, raises
            # whatever it likes: nothing is lost, because the task is done again.
            except Exception as error:
                self._left.appendleft(number)
                if not self.leaving.is_set():
                    print(f"another process stopped ({error!r}); going on here", file=sys.stderr)
                return
        line.close()

    def help_out(self, number: int | None) -> None:
        """Do this task here, and others for as long as there are any."""
        while number is not None:
            try:
                self._finish(number, self._work(self._tasks[number], partial(self._here, number)))
            except Exception as error:  # whatever a task raises, the others end first
                self._finish(number, error)
            number = self.begin()

    def _here(self, number: int, text: str, share: float) -> None:
        if self.failures:  # of another process: what is done here is for nothing
            raise self.failures[0]
        self._watch(number, text, share)

    def _finish(self, number: int, answer: object) -> None:
        self.answers[number] = answer
        if isinstance(answer, Exception):
            self.failures.append(answer)
            self._left.clear()


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
        for process in processes:
            process.join(LEAVING)
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


def _leave_with(parent: BaseProcess) -> None:
    """Whatever killed it: nobody waits for what this process is at."""
    parent.join()
    os._exit(1)
