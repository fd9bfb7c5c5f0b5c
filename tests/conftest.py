"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# One thread a worker, here and in the processes that tests start: workers share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from collapse.scores import SCORES
from tests.zoo import ZOO, Case

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _private_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """No test reads or writes the user's cache or data."""
    monkeypatch.setenv("COLLAPSE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("COLLAPSE_DATA", str(tmp_path_factory.getbasetemp() / "data"))


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """A test gives the same in whatever order and company it runs."""
    torch.manual_seed(0)
    before = dict(SCORES)
    yield
    SCORES.clear()
    SCORES.update(before)


@pytest.fixture(params=sorted(ZOO))
def case(request: pytest.FixtureRequest) -> Case:
    """Every kind of network that the engine has to take, small."""
    torch.manual_seed(0)
    return ZOO[request.param]()


@pytest.fixture
def shared_data() -> Path:
    """The real images that lie beside the checkout on the project's own machines."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder shared/data beside the checkout: real images are not there")
    return folder


@pytest.fixture
def module_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Write a user's module into the current folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)

    return write


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process: exit code, stdout, stderr."""

    def call(command, arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["command", *arguments.split()])
        with pytest.raises(SystemExit) as stop:
            command.run()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def mlp() -> nn.Module:
    """A small perceptron whose layers are called 0, 2 and 4."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(6, 8), nn.ReLU()), *(nn.Linear(8, 7), nn.ReLU()), nn.Linear(7, 3)
    )
