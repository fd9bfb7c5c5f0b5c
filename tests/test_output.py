"""Readers who leave, full disks and closed outputs: one line, the right exit code, nothing lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from collapse.commands import critical, pruning
from collapse.errors import RequestError
from tests.conftest import Run

# A command that prints a table of so many rows, and one that shows progress, without torch.
TABLE = """
from collapse import cli
rows = [{"a": f"row {n}"} for n in range(20_000)]
cli.guarded(lambda: cli.print_table("title", rows, {"a": "{a}"}))
"""
PROGRESS = """
from collapse import cli
def main():
    with cli.progress(1, False) as update:
        update("working", 0.5)
    print("done")
cli.guarded(main)
"""
SMALL = "--model fc --dataset gaussian --input-shape 1 4 4 --classes 3 --quiet"


def _shell(code: str, redirected: str) -> subprocess.CompletedProcess[str]:
    words = ["bash", "-c", f'"$0" -c "$1" {redirected}', sys.executable, code]
    return subprocess.run(words, check=False, capture_output=True, text=True)


def test_a_reader_who_leaves_is_no_failure() -> None:
    done = _shell(TABLE, "| head -1; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "title\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_an_output_on_a_full_disk_is_one_line() -> None:
    done = _shell(TABLE, "> /dev/full")
    assert done.returncode == 2
    assert done.stderr == "error: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("redirected", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize("code", [TABLE, PROGRESS])
def test_a_closed_output_is_read_by_nobody(code: str, redirected: str) -> None:
    done = _shell(code, redirected)
    assert (done.returncode, done.stderr) == (0, "")


def _no_space(*_: object, **__: object) -> None:
    raise RequestError("cannot write 'x': no space left")


def test_what_cannot_be_written_is_shown(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search may have taken hours; its files come after it."""
    for target in ("tables.write", "plots.save", "masks.save_masks"):
        monkeypatch.setattr(f"collapse.{target}", _no_space)
    files = f"--out {tmp_path / 'a.csv'} --plot {tmp_path / 'a.png'}"
    code, out, err = run(critical, f"{SMALL} --pruners magnitude --no-effective {files}")
    assert "magnitude" in out
    assert (code, err) == (2, "error: cannot write 'x': no space left\n")
    words = f"{SMALL} --pruner magnitude --compression 2 --out {tmp_path / 'a.safetensors'}"
    code, out, err = run(pruning, words)
    assert "parameters" in out
    assert (code, err) == (2, "error: cannot write 'x': no space left\n")
    monkeypatch.undo()
    code, out, err = run(critical, f"{SMALL} --pruners magnitude --no-effective {files}")
    assert (code, err) == (0, "")  # nothing is remembered
    assert len(pd.read_csv(tmp_path / "a.csv", comment="#")) == 1
