"""Tasks that several processes share: every answer once, whoever is killed, and no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
import torch

from collapse.errors import RequestError
from collapse.processes import Listed, _others, _Shared, jobs_of, shared_out
from tests.shared_tasks import (
    chained,
    killed_elsewhere,
    lingering,
    noted,
    quiet,
    raising_elsewhere,
    unpicklable,
)


def test_each_task_is_done_once_by_one_of_two_processes(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    tasks = [0.3, 1.5, 0.5, 0.4]
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        agenda = Listed(sorted(tasks, reverse=True), sorted(tasks, reverse=True))
        found = shared_out(partial(noted, tmp_path), agenda, 2, lambda *now: told.append(now))
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(before)
    assert {task: did for task, (did, _) in found.items()} == {task: task for task in tasks}
    assert found[1.5][1] == os.getpid()  # the first one is begun here
    assert len({who for _, who in found.values()}) == 2
    done = [path.name.split("-") for path in tmp_path.iterdir()]
    assert sorted(float(task) for task, _, _ in done) == sorted(tasks)  # each was done once
    assert {threads for _, _, threads in done} == {"2"}  # two of five
    assert told[-1][1] == pytest.approx(1.0)
    assert max(share for _, share in told) <= 1.0 + 1e-9
    assert {text for text, _ in told} == {f"task {task}" for task in tasks}
    assert os.environ.get("OMP_NUM_THREADS") != "2"


def test_one_process_keeps_the_order(tmp_path: Path) -> None:
    begun: list[float] = []
    found = shared_out(lambda t, watch: begun.append(t) or t, Listed([1.0, 3.0, 2.0]), 1, quiet)
    assert list(found) == list(found.values()) == begun == [1.0, 3.0, 2.0]


def test_a_process_leaves_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    """Also where it is told to leave while it does so by itself."""
    with _others(1, partial(lingering, os.getpid()), 1) as (line,):
        line.send(0.0)
        assert line.recv() == (0.0,)
        line.close()
        time.sleep(1)  # it is tidying up by now
    assert capfd.readouterr().err == ""


def test_a_killed_process_loses_nothing() -> None:
    tasks = [1.5, 0.2, 0.1]
    found = shared_out(partial(killed_elsewhere, os.getpid()), Listed(tasks), 2, quiet)
    assert found == {task: task for task in tasks}


def test_the_first_error_ends_all_work_and_is_raised() -> None:
    tasks = [float(n) for n in range(100)]
    begun = time.monotonic()
    with pytest.raises(RequestError, match="expected one that can be done"):
        shared_out(partial(raising_elsewhere, os.getpid()), Listed(tasks), 2, quiet)
    assert time.monotonic() - begun < 20.0  # one of them takes thirty seconds here


def test_what_cannot_come_back_is_done_here() -> None:
    found = shared_out(unpicklable, Listed(range(6)), 2, quiet)
    assert {task: answer() for task, answer in found.items()} == {task: task for task in range(6)}


class _Chain:
    """Three tasks, each of which follows from the one before, and a guess."""

    def __init__(self, guess: str) -> None:
        self._guess = guess

    def needed(self, answers: Mapping[str, int]) -> list[str]:
        left = [f"needed {n}" for n in range(3) if f"needed {n}" not in answers]
        return left[:1]

    def guesses(self, answers: Mapping[str, int], count: int) -> list[str]:
        return [self._guess]

    def share(self, shares: Mapping[str, float]) -> float:
        return sum(shares.values()) / 4


def test_one_process_does_what_is_needed_and_no_guess(tmp_path: Path) -> None:
    (tmp_path / "another").touch()
    found = shared_out(partial(chained, tmp_path, ""), _Chain("guess"), 1, quiet)
    assert list(found) == ["needed 0", "needed 1", "needed 2"]


def test_a_guess_is_for_who_has_nothing_else_to_do(tmp_path: Path) -> None:
    found = shared_out(partial(chained, tmp_path, ""), _Chain("needed 2"), 2, quiet)
    assert sorted(found) == ["needed 0", "needed 1", "needed 2"]
    assert found["needed 0"] == os.getpid() != found["needed 2"]  # done before its turn


@pytest.mark.parametrize("guess", ["guess of 600 seconds", "guess that fails"])
def test_a_guess_that_nobody_needed_holds_up_nothing(
    guess: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = time.monotonic()
    found = shared_out(partial(chained, tmp_path, "guess that fails"), _Chain(guess), 2, quiet)
    assert sorted(found) == ["needed 0", "needed 1", "needed 2"]
    assert (tmp_path / guess).exists()
    assert time.monotonic() - begun < 60
    assert capsys.readouterr().err == ""


def test_what_became_needless_here_ends(tmp_path: Path) -> None:
    """The other process does all that is needed, and this one is at a guess."""
    agenda = _Chain("needed 1")
    agenda.guesses = lambda answers, count: ["guess of 600 seconds"]
    shared = _Shared(partial(chained, tmp_path, ""), agenda, 2, quiet)
    mine, other = shared.begin(), shared.begin()
    assert (mine, other) == ("needed 0", "guess of 600 seconds")
    ended = threading.Thread(target=shared.help_out, args=(other,))
    ended.start()
    shared.help_out(mine)
    ended.join(60)
    assert not ended.is_alive()
    assert "guess of 600 seconds" not in shared.answers


def test_the_error_of_a_guess_counts_when_it_is_needed(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="needed 2 fails"):
        shared_out(partial(chained, tmp_path, "needed 2"), _Chain("needed 2"), 2, quiet)


SHARED = """
import signal
import sys
from functools import partial
from pathlib import Path
from tests.shared_tasks import noted, quiet
from collapse.processes import Listed, shared_out

# A process that a shell began in its background ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
shared_out(partial(noted, Path(sys.argv[1])), Listed([600.0, 600.1]), 2, quiet)
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
