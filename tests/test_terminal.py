"""Tables in a terminal fit its width with whole numbers; in a pipe they can be searched."""

from __future__ import annotations

import io
import re
import sys

import pytest

from collapse import cli

ROW = {
    "pruner": "synflow",
    "mode": "eval",
    "critical": 1_051_113.14,
    "kept": 14,
    "first": "stages.stage2.0.downsample.0",
    "evidence": "certified schedule",
}
COLUMNS = {
    "pruner": "{pruner}",
    "mode": "{mode}",
    "critical": "{critical:n}",
    "kept": "{kept:,}",
    "first to collapse": "{first}",
    "evidence": "{evidence}",
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _printed(monkeypatch: pytest.MonkeyPatch, width: int | None, terminal: bool) -> str:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "dumb" if not terminal else "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)
    if width is not None:
        monkeypatch.setenv("COLUMNS", str(width))
    cli.print_table("a title", [ROW, ROW | {"mode": None}], COLUMNS, spare=("kept", "mode"))
    return re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())  # without bold and colours


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((1_051_113.14, "1,051,113"), (5811.84, "5,812"), (999.7, "1,000"), (99.96, "100")),
        *((4.0612, "4.06"), (0.00081234, "0.000812"), (0, "0"), (float("inf"), "inf")),
        *((1.31734e27, "1.32e+27"), (-250.4, "-250")),
    ],
)
def test_one_format_for_numbers(value: float, text: str) -> None:
    assert cli.number(value) == text


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [200, 100, 80])
def test_tables_fit_the_width(monkeypatch: pytest.MonkeyPatch, width: int, terminal: bool) -> None:
    out = _printed(monkeypatch, width, terminal)
    assert max(map(len, out.splitlines())) <= width
    assert "1,051,113" in out
    assert ROW["first"] in out  # whole


def test_spare_columns_go_from_the_last_and_none_else(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = (_printed(monkeypatch, width, False) for width in (100, 70))
    assert "mode" in wide
    assert "kept" in wide
    assert "mode" not in narrow
    assert "kept" in narrow
    assert all(name in _printed(monkeypatch, 20, False) for name in ("pruner", "critical"))


def test_a_pipe_gets_a_hundred_columns_and_whole_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "certified schedule" in _printed(monkeypatch, None, False)
    assert ROW["first"] in _printed(monkeypatch, 20, False)


def test_lines_in_a_pipe_end_where_their_text_does(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = _printed(monkeypatch, None, False).splitlines()
    assert [line for line in lines if line.endswith(" ")] == []
    assert len(lines) == 7


def test_a_narrow_terminal_breaks_words_and_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    out = _printed(monkeypatch, 50, True)
    assert max(map(len, out.splitlines())) <= 50
    assert ROW["first"] not in out
    assert "1,051,113" in out


def test_names_in_brackets_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    names = ["parts.[a].weight", "parts.[/b].weight", "[bold]"]
    columns = {"layer": "{layer}", "[x]": "{layer}"}
    cli.print_table("of [red]", [{"layer": name} for name in names], columns, notes=["[/i] note"])
    for text in (*names, "of [red]", "[x]", "[/i] note"):
        assert text in stream.getvalue()
