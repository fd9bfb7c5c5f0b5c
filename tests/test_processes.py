"""Tasks that several processes share: every answer once, whoever is killed, and no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from collapse.errors import RequestError
from collapse.processes import jobs_of, shared_out
from tests.shared_tasks import killed_elsewhere, noted, quiet, raising_elsewhere, unpicklable


def test_answers_come_in_the_order_of_the_tasks(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    tasks = [0.3, 1.5, 0.5, 0.4]
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        found = shared_out(partial(noted, tmp_path), tasks, tasks, 2, lambda *now: told.append(now))
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(before)
    assert [task for task, _ in found] == tasks
    assert found[1][1] == os.getpid()  # the most expensive one is begun first, and here
    assert len({who for _, who in found}) == 2
    done = [path.name.split("-") for path in tmp_path.iterdir()]
    assert sorted(float(task) for task, _, _ in done) == sorted(tasks)  # each was done once
    assert {threads for _, _, threads in done} == {"2"}  # two of five
    assert told[-1][1] == pytest.approx(1.0)
    assert max(share for _, share in told) <= 1.0 + 1e-9
    assert {text for text, _ in told} == {f"task {task}" for task in tasks}
    assert os.environ.get("OMP_NUM_THREADS") != "2"


def test_one_process_keeps_the_order(tmp_path: Path) -> None:
    begun: list[float] = []
    found = shared_out(lambda t, watch: begun.append(t) or t, [1.0, 3.0, 2.0], [1, 3, 2], 1, quiet)
    assert found == begun == [1.0, 3.0, 2.0]


def test_a_killed_process_loses_nothing() -> None:
    tasks = [1.5, 0.2, 0.1]
    found = shared_out(partial(killed_elsewhere, os.getpid()), tasks, tasks, 2, quiet)
    assert found == tasks


def test_the_first_error_ends_all_work_and_is_raised() -> None:
    tasks = [float(n) for n in range(100)]
    begun = time.monotonic()
    with pytest.raises(RequestError, match="expected one that can be done"):
        shared_out(partial(raising_elsewhere, os.getpid()), tasks, tasks, 2, quiet)
    assert time.monotonic() - begun < 20.0  # one of them takes thirty seconds here


def test_what_cannot_come_back_is_done_here() -> None:
    found = shared_out(unpicklable, [1.0, 2.0] * 3, [1] * 6, 2, quiet)
    assert [answer() for answer in found] == [1.0, 2.0] * 3


SHARED = """
import signal
import sys
from functools import partial
from pathlib import Path
from tests.shared_tasks import noted, quiet
from collapse.processes import shared_out

# A process that a shell began in its background ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
shared_out(partial(noted, Path(sys.argv[1])), [600.0, 600.1], [2, 1], 2, quiet)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_one_that_was_killed(tmp_path: Path, number: int) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "begun"
    script.write_text(SHARED)
    folder.mkdir()
    root = str(Path(__file__).parents[1])
    whole = subprocess.Popen(
        [sys.executable, str(script), str(folder)], env={**os.environ, "PYTHONPATH": root},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    _until(lambda: len(list(folder.iterdir())) == 2)
    others = {int(path.name.split("-")[1]) for path in folder.iterdir()} - {whole.pid}
    whole.send_signal(number)
    whole.wait(20)
    assert whole.stderr is not None
    said = whole.stderr.read()
    assert "another process" not in said  # stopped: it was we who left
    assert "bootstrapping" not in said  # nor does the other process run our script, again
    for other in others:
        _until(lambda other=other: not _lives(other))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "zombie" not in Path(f"/proc/{process}/status").read_text()


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_how_many_processes() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert jobs_of(None, "cpu", 1000) == 2
        assert jobs_of(None, "cpu", 1) == 1
        assert jobs_of(None, "cuda", 1000) == 1
        assert jobs_of(3, "cuda", 1) == 3
        torch.set_num_threads(1)
        assert jobs_of(None, "cpu", 1000) == 1
    finally:
        torch.set_num_threads(before)
    with pytest.raises(RequestError, match="--jobs: expected at least 1, got 0"):
        jobs_of(0, "cpu", 1)
