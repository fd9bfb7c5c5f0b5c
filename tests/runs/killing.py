"""Run a command in a process of its own and kill it with SIGKILL, at a moment or at a system call.

The processes are forked from a server that has imported everything, so that fifty of them cost
seconds. What runs in them is the command as a user types it.
"""

from __future__ import annotations

import functools
import importlib
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
# Commands import late what they work with: here it is loaded once for all processes.
_CONTEXT.set_forkserver_preload([
    *("collapse.runs.execution", "collapse.runs.report", "collapse.tables", "pandas"),
    *("collapse.commands.imp", "analysis.commands.sweep", "analysis.sweeps.sweeping"),
    *("analysis.sweeps.overview", "tests.runs.killing"),
    *("torch._dynamo", "torch._inductor.config"),  # by torch itself, at the first training
])  # fmt: skip
# What a saved file goes through: to disk, under its name, away.
CALLS = ("fsync", "replace", "unlink")


class _Counter:
    """Counts the calls of ``CALLS``; dies before or after one of them."""

    def __init__(self, fatal: int | None, after: bool) -> None:
        self.count, self.fatal, self.after = 0, fatal, after

    def wrap(self, function):
        @functools.wraps(function)
        def call(*arguments, **options):
            self.count += 1
            fatal = self.count == self.fatal
            if fatal and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **options)
            if fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call


def _child(command: str, arguments: list[str], fatal: int | None, after: bool, counted) -> None:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    counter = _Counter(fatal, after)
    for name in CALLS:
        setattr(os, name, counter.wrap(getattr(os, name)))
    sys.argv = [command, *arguments]
    module = importlib.import_module(command)
    try:
        module.run(arguments) if command.startswith("analysis") else module.run()
    finally:
        counted.value = counter.count


def start(target, *arguments) -> multiprocessing.process.BaseProcess:
    """Call a function in a process of its own, forked from the warm server."""
    child = _CONTEXT.Process(target=target, args=arguments)
    child.start()
    return child


class Killer:
    """Starts one command over and over.

    Attributes:
        seconds, calls: how long an undisturbed run took, and how many of ``CALLS`` it made.
        kills: how many processes were killed so far.
    """

    def __init__(self, command: str, seed: int = 0) -> None:
        self.command = command
        self.seconds, self.calls, self.kills = 0.0, 0, 0
        self.draw = random.Random(seed)

    def undisturbed(self, arguments: list[str]) -> None:
        """Run to the end, and note how long that takes."""
        for _ in range(2):  # the first one starts the server
            start = time.monotonic()
            code, self.calls = self._start(arguments)
            assert code == 0
            arguments = [*arguments[:-1], arguments[-1] + "-again"]
            self.seconds = time.monotonic() - start

    def until_done(self, arguments: list[str], limit: int) -> int:
        """Kill and start again until it ends by itself; at most ``limit`` kills, and how many."""
        for kills in range(limit):
            if self.draw.random() < 0.5:
                code, _ = self._start(arguments, wait=self.draw.uniform(0, self.seconds))
            else:
                fatal = self.draw.randint(1, self.calls)
                code, _ = self._start(arguments, fatal, self.draw.random() < 0.5)
            if code == 0:
                return kills
            assert code == -signal.SIGKILL
            self.kills += 1
        code, _ = self._start(arguments)
        assert code == 0
        return limit

    def _start(
        self,
        arguments: list[str],
        fatal: int | None = None,
        after: bool = False,
        wait: float | None = None,
    ) -> tuple[int, int]:
        counted = _CONTEXT.Value("i", 0)
        child = _CONTEXT.Process(
            target=_child, args=(self.command, arguments, fatal, after, counted)
        )
        child.start()
        child.join(wait)
        if child.is_alive():
            child.kill()
            child.join()
        assert child.exitcode is not None
        return child.exitcode, counted.value


ARGUMENTS = (
    "--model fc --init xavier --device cpu --epochs 3 --train-samples 200 --test-samples 100 "
    "--lr 0.05 --levels 2 --rewind-epoch 1 --compression 20 --exact --quiet"
)
SMALLER = (  # at this compression most channels are gone
    "--model minivgg --dataset digits --device cpu --epochs 4 --train-samples 200 "
    "--test-samples 100 --lr 0.05 --pruner synflow --iterations 10 --compression 100 "
    "--exact --quiet"
)
GRID = """
model = "fc"
init = "xavier"
pruner = ["random", "magnitude"]
compression = [1, 10]
seed = [0, 1]
epochs = 2
lr = 0.05
train_samples = 100
test_samples = 100
"""

# What must be equal to the byte; seconds, dates and process numbers are in the other files.
RESULTS = (
    *("training.parquet", "score_dynamics.parquet", "conserved_quantity.parquet"),
    *("layers.parquet", "levels.parquet", "masks.safetensors", "weights.safetensors"),
)


def results(root: Path) -> dict[str, dict[str, bytes]]:
    """The bytes of every result of every finished run under ``root``."""
    return {
        folder.name: {name: (folder / name).read_bytes() for name in RESULTS}
        for folder in root.iterdir()
        if (folder / "done.json").exists() and ".corrupt" not in folder.name
    }
