"""The share of the work that is done, from which the time left follows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest

from analysis.questions.accuracy import TABLE
from analysis.resumable import After, Measured, Resources, Trained, complete
from collapse import cli
from collapse.options import Execution
from collapse.processes import Update


@dataclass(frozen=True)
class _Point:
    """So many epochs; there already, or cut, or trained."""

    work: int
    state: str = ""
    about: str = "a point"

    @property
    def row(self) -> dict[str, Any]:
        return {"model": "net"}

    def stored(self, resources: Resources) -> pd.DataFrame | None:
        return pd.DataFrame([self.row]) if self.state == "stored" else None

    def busy(self, resources: Resources) -> bool:
        return False

    def check(self) -> None:
        pass

    def compute(self, resources: Resources, update: Update) -> pd.DataFrame:
        update(self.about, 0.0)
        if self.state != "cut":
            for epoch in range(self.work):
                update(self.about, (epoch + 1) / self.work)
        return pd.DataFrame([self.row])


def test_what_is_no_work_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    heard: list[float] = []

    @contextmanager
    def listening(total: float, quiet: bool) -> Iterator[Update]:
        yield lambda text, done: heard.append(done / total)

    monkeypatch.setattr(cli, "progress", listening)
    points = [_Point(100, "stored"), _Point(100, "cut"), _Point(2), _Point(2)]
    complete(points, TABLE, Resources(Execution(tmp_path)))
    assert heard == [0.0, 0.0, 0.25, 0.5, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(("state", "expected"), [("", [0, 0.5, 1, 1, 1]), ("stored", [0, 0])])
def test_measuring_after_a_training_is_no_second_work(
    tmp_path: Path, state: str, expected: list[float]
) -> None:
    training, heard = _Point(2, state), list[float]()
    trained, point = cast(Trained, training), cast(Measured, _Point(1))
    told = After(trained, training.row, "after", lambda run: point)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(After, "_measured", lambda self, resources: point)
        told.compute(Resources(Execution(tmp_path)), lambda text, share: heard.append(share))
    assert heard == expected
