"""Tables and files: round trips, provenance, and nothing half-written."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from collapse import tables
from collapse.errors import RequestError
from collapse.files import atomic, check_writable


def _frame() -> pd.DataFrame:
    row = dict.fromkeys(tables.COLUMNS["layers"], 1.5) | {"density": 0.15}
    row |= dict.fromkeys(("model", "dataset", "pruner"), "x")
    return pd.DataFrame([{**row, "layer": 'a,"b"', "mode": None}, {**row, "layer": "c#"}])


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    tables.write(_frame(), path, "layers", "cpu")
    frame, metadata = tables.read(path, "layers")
    assert list(frame.columns) == list(tables.COLUMNS["layers"])
    assert frame["layer"].tolist() == ['a,"b"', "c#"]
    assert frame["density"].tolist() == [0.15, 0.15]
    assert frame["mode"].isna().tolist() == [True, False]
    assert metadata["device"] == "cpu"
    assert metadata["command"]
    assert {"python", "torch", "layer-collapse"} <= set(metadata["versions"])


def test_wrong_tables(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with pytest.raises(RequestError, match="lacks the columns density"):
        tables.write(_frame().drop(columns="density"), path, "layers")
    with pytest.raises(RequestError, match="unknown table 'layer'; nearest: layers"):
        tables.write(_frame(), path, "layer")
    with pytest.raises(RequestError, match=r"expected a suffix of \.parquet, \.csv, \.json"):
        tables.write(_frame(), tmp_path / "table.xls", "layers")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RequestError, match="cannot be read"):
        tables.read(path, "layers")
    tables.write(_frame(), path, "layers")
    with pytest.raises(RequestError, match="expected table 'critical' .*got 'layers'"):
        tables.read(path, "critical")
    path.write_text("a,b\n1,2\n")
    with pytest.raises(RequestError, match="expected table 'layers'"):
        tables.read(path, "layers")
    for name in ("cut.parquet", "cut.json"):
        tables.write(_frame(), tmp_path / name, "layers")
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-9])
        with pytest.raises(RequestError, match="cannot be read"):
            tables.read(tmp_path / name, "layers")


def test_atomic_keeps_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with atomic(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with pytest.raises(RequestError, match="cannot write .*No space left"), atomic(path):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_unwritable_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot write"):
        check_writable(tmp_path / "file" / "table.csv", [".csv"])
    with pytest.raises(RequestError, match="it is a folder, expected a file name"):
        check_writable(tmp_path, [""])
    check_writable(tmp_path / "new" / "table.csv", [".csv"])
    check_writable(None, [])
    assert not (tmp_path / "new" / "table.csv").exists()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_json_keeps_every_digit(tmp_path: Path) -> None:
    """Also of numbers so small that ten decimals are nothing."""
    values = dict.fromkeys(tables.COLUMNS["conserved_quantity"], 0)
    values |= dict.fromkeys(("model", "dataset", "pruner"), "x")
    frame = pd.DataFrame([{**values, "value": 1.2345678901234567e-9, "drift": 1 / 3}])
    for suffix in ("json", "csv", "parquet"):
        path = tmp_path / f"t.{suffix}"
        tables.write(frame, path, "conserved_quantity")
        read, _ = tables.read(path, "conserved_quantity")
        assert read["value"].to_list() == [1.2345678901234567e-9]
        assert read["drift"].to_list() == [1 / 3]


def test_a_table_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    frame = pd.DataFrame([dict.fromkeys(tables.COLUMNS["trace"], n) for n in range(9)])
    tables.write(frame, path, "trace")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:6]) + "\n")
    with pytest.raises(RequestError, match="expected 9 rows, got 4: was it cut?"):
        tables.read(path, "trace")
    path.write_text("# [1]\n" + "\n".join(lines[1:]))
    with pytest.raises(RequestError, match="got one without its description"):
        tables.read(path, "trace")


def test_who_makes_a_table_declares_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "COLUMNS", dict(tables.COLUMNS))
    assert tables.declare("mine", "model", "answer") == "mine"
    assert tables.declare("mine", "model", "answer") == "mine"
    with pytest.raises(ValueError, match="'mine': expected the columns model, answer"):
        tables.declare("mine", "model")
    with pytest.raises(ValueError, match="'layers': expected the columns model"):
        tables.declare("layers", "layer")
    path = tmp_path / "mine.csv"
    with pytest.raises(RequestError, match="table 'mine' lacks the columns answer"):
        tables.write(pd.DataFrame([{"model": "m"}]), path, "mine")
    tables.write(pd.DataFrame([{"model": "m", "answer": 42}]), path, "mine")
    del tables.COLUMNS["mine"]  # as in a process that has not imported who makes it
    assert tables.read(path, "mine")[0]["answer"].tolist() == [42]
    with pytest.raises(RequestError, match="expected table 'yours' .*got 'mine'"):
        tables.read(path, "yours")


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("density", "x", "expected numbers from 0 to 1, got 'x'"),
        ("density", -0.5, "expected numbers from 0 to 1, got '-0.5'"),
        ("compression", 0.5, "expected numbers from 1 up, got '0.5'"),
        ("kept", "many", "expected numbers from 0 up, got 'many'"),
        ("best_top1", 1e9, "expected numbers from 0 to 100, got '1000000000.0'"),
        ("pruner", 0, "expected names, got '0'"),
        ("density", None, None),
        ("best_top1", 100.0, None),
    ],
)
def test_values_that_no_table_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str, value: object, said: str | None
) -> None:
    monkeypatch.setitem(tables.COLUMNS, "values", (column,))
    path = tmp_path / "t.json"
    tables.write(pd.DataFrame({column: [value]}), path, "values", "cpu")
    if said is None:
        assert len(tables.read(path, "values")[0]) == 1
        return
    with pytest.raises(RequestError, match=f"column '{column}': {said}"):
        tables.read(path, "values")
