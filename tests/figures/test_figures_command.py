"""`python -m figures NAME TABLE`: what it writes, what it imports, and its one-line refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from collapse import tables
from collapse.errors import RequestError
from figures.commands import draw, make_all
from tests.drawn_tables import cuts_table, tickets_table


def _command(*words: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-m", "figures", *words],
        capture_output=True, text=True, cwd=root, check=False,
    )  # fmt: skip


def test_the_command_draws_without_torch(tmp_path: Path) -> None:
    """Nor does any other figure import torch, nor the answers that they draw."""
    tables.write(cuts_table(), tmp_path / "cuts.csv", "cuts")
    code = (
        "import sys; from figures.__main__ import main\n"
        "from figures.commands import FIGURES, find\n"
        f"try: main(['cuts', '{tmp_path}/cuts.csv', '--out', '{tmp_path}/cuts.svg'])\n"
        "except SystemExit as stop: code = stop.code\n"
        "drawn = 'matplotlib.pyplot' in sys.modules\n"
        "for name in FIGURES: find(name)\n"
        "print(code, 'torch' in sys.modules, drawn)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 False False"
    assert "certified" in (tmp_path / "cuts.svg").read_text()


def test_the_commands_mistakes(tmp_path: Path) -> None:
    table = str(tmp_path / "cuts.csv")
    tables.write(cuts_table(), Path(table), "cuts")
    tickets = str(tmp_path / "tickets.csv")
    tables.write(tickets_table(), Path(tickets), "tickets")
    out = ("--out", str(tmp_path / "x.pdf"))
    cases = {
        ("cust", table, *out): "unknown figure 'cust'; nearest: cuts",
        ("cuts", table): "--out",
        ("cuts", table, "--out", "x.doc"): "expected a suffix of .pdf, .svg, .png",
        ("cuts", str(tmp_path / "no.csv"), *out): "cannot be read",
        ("densities", table, *out): "expected table 'layers' of schema version 1, got 'cuts' of 1",
        ("cuts", table, *out, "--published"): "the published cuts are of vgg19, 3x224x224",
        ("neurons", table, *out, "--size", "poster"): "--size",
        (
            "tickets",
            tickets,
            *out,
            "--published",
        ): "nothing is published for 'tickets': expected one",
    }
    for words, message in cases.items():
        done = _draw(*words)
        assert message in str(done), words
    assert not (tmp_path / "x.pdf").exists()
    done = _command("cust", table, *out)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown figure 'cust'; nearest: cuts, cost\n"


def test_all_checks_its_preset_before_it_makes_a_folder(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="unknown preset 'nope'; one of: laptop, paper, smoke"):
        make_all(["--preset", "nope", "--out", str(tmp_path / "out")])
    assert not list(tmp_path.iterdir())


def _draw(name: str, *words: str) -> RequestError:
    with pytest.raises(RequestError) as error:
        draw(name, words)
    return error.value


def test_a_table_of_a_newer_schema_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "SCHEMA_VERSION", 2)
    tables.write(cuts_table(), tmp_path / "cuts.csv", "cuts")
    monkeypatch.undo()
    error = _draw("cuts", str(tmp_path / "cuts.csv"), "--out", str(tmp_path / "x.pdf"))
    assert "expected table 'cuts' of schema version 1, got 'cuts' of 2" in str(error)
