"""The notebooks, top to bottom, each in a kernel of its own; and `figures all`."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from collapse import tables
from figures import by_name, commands
from tests.drawn_tables import TABLES

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "figures" / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def refresh() -> ModuleType:
    path = ROOT / "figures" / "notebooks" / "refresh.py"
    spec = importlib.util.spec_from_file_location("refresh", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pictures(notebook: dict[str, object]) -> int:
    cells = notebook["cells"]
    assert isinstance(cells, list)
    return sum(
        "image/png" in output.get("data", {})
        for cell in cells
        for output in cell.get("outputs", [])
    )


def test_notebooks_run_from_a_clean_kernel(
    refresh: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One of them, a user's own model, with less work; the slow test below runs all."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert [path.stem for path in NOTEBOOKS] == [
        "figure1_accuracy", "figure2_densities", "figure3_neurons", "figure4_layer_scores",
        "figure5_imp", "figure6_grid", "figure7_cuts", "questions", "your_own_model",
    ]  # fmt: skip
    text = NOTEBOOKS[-1].read_text()
    fewer = {
        "samples_per_class=10": "samples_per_class=1",
        "scan=2": "scan=0",
        "collapse.Pruning(name) for": "collapse.Pruning(name, 1 + (name == 'synflow')) for",
    }
    for much, little in fewer.items():
        assert text.count(much) == 1
        text = text.replace(much, little)
    (tmp_path / "small.ipynb").write_text(text)
    assert _pictures(refresh.execute(tmp_path / "small.ipynb")) >= 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_notebooks_are_readable_and_do_not_churn(path: Path, refresh: ModuleType) -> None:
    """With pictures, small, and without what differs from run to run."""
    assert path.stat().st_size < 400_000
    stored = json.loads(path.read_text())
    assert _pictures(stored) >= 1
    assert "widgets" not in stored["metadata"]
    for cell in stored["cells"]:
        assert cell.get("execution_count") is None
        assert cell["metadata"] == {}
        assert all(output.get("name") != "stderr" for output in cell.get("outputs", []))
        assert all(output["output_type"] != "error" for output in cell.get("outputs", []))
    if path.stem.startswith("figure"):
        assert refresh.PRESET in path.read_text().replace('\\"', '"')


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_laptop_preset_takes_under_two_minutes(
    path: Path, refresh: ModuleType, tmp_path: Path
) -> None:
    """In a folder of runs of its own, so that nothing is done already."""
    copy = tmp_path / "a" / "b" / path.name
    copy.parent.mkdir(parents=True)
    copy.write_text(path.read_text().replace('\\"../..\\"', f'\\"{ROOT}\\"'))
    start = time.monotonic()
    refresh.execute(copy)
    print(f"{path.stem}: {time.monotonic() - start:.0f} s")
    assert time.monotonic() - start < 120


# --- figures all --------------------------------------------------------------------------------


def _all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codes: dict[str, int], of: str = "paper"
) -> int:
    """`figures all` with experiments that write tables made by hand."""

    def run(words: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        name = words[3]
        if codes.get(name, 0) in (0, 1):
            table = TABLES[name]
            if codes.get(name):
                half = table.iloc[[0]].assign(finished=False, iterations=77)
                table = pd.concat([table, half], ignore_index=True)
            out = Path(words[words.index("--out") + 1])
            tables.write(table, out, by_name.find(name).TABLE)
        return subprocess.CompletedProcess(words, codes.get(name, 0))

    monkeypatch.setattr("subprocess.run", run)
    return commands.make_all(["--of", of, "--out", str(tmp_path), "--suffix", "svg", "--quiet"])


@pytest.mark.parametrize(
    ("of", "names"),
    [
        ("paper", tuple(commands.SETS["paper"])),
        ("questions", ("cost", "sanity")),
        pytest.param("questions", tuple(commands.SETS["questions"]), marks=pytest.mark.slow),
    ],
)
def test_figures_all_draws_every_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str, names: tuple[str, ...]
) -> None:
    monkeypatch.setitem(commands.SETS, of, dict.fromkeys(names, ""))
    assert _all(tmp_path, monkeypatch, {}, of) == 0
    drawn = sorted(tmp_path.glob("*.svg"))
    assert [path.stem for path in drawn] == sorted(commands.SETS[of])
    # No figure says that some of its points are missing.
    assert not any(re.search(r"\d of \d+ points<", path.read_text()) for path in drawn)


def test_figures_all_draws_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(commands.SETS, "paper", {"cuts": "", "neurons": ""})
    assert _all(tmp_path, monkeypatch, {"cuts": 1}) == 1
    assert "9 of 10 points" in (tmp_path / "cuts.svg").read_text()
    assert len(list(tmp_path.glob("*.svg"))) == len(commands.SETS["paper"])


def test_figures_all_stops_where_an_experiment_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _all(tmp_path, monkeypatch, {"neurons": 2}) == 2
    assert sorted(p.stem for p in tmp_path.glob("*.svg")) == ["accuracy", "densities"]


@pytest.mark.slow
def test_figures_all_goes_on_after_a_kill(tmp_path: Path) -> None:
    """Killed in the middle (the whole group, kill -9), the same command ends the work."""
    words = [sys.executable, "-m", "figures", "all", "--preset", "smoke", "--suffix", "svg"]
    words += ["--out", str(tmp_path / "out"), "--runs", str(tmp_path / "runs"), "--quiet"]
    first = subprocess.Popen(words, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    while not (tmp_path / "out" / "neurons.parquet").exists():
        assert first.poll() is None
        time.sleep(0.1)
    subprocess.run(["kill", "-9", "--", f"-{first.pid}"], check=True)
    first.wait()
    points = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.parquet")}
    assert subprocess.run(words, cwd=ROOT, stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert len(list((tmp_path / "out").glob("*.svg"))) == len(commands.SETS["paper"])
    assert all(path.stat().st_mtime_ns == at for path, at in points.items())
