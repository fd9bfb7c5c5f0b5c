"""What a stranger did to runs: tied weights, frozen, failing and complex models, wrong requests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from collapse.commands import imp as command
from collapse.errors import RequestError
from collapse.models import build
from collapse.options import Execution, Setup
from collapse.runs import perform
from collapse.scores import SCORES
from tests.conftest import Run as RunCommand
from tests.runs.killing import ARGUMENTS
from tests.runs.test_runs import SMALL, _interrupt_after


@pytest.fixture(autouse=True)
def _registry_as_before() -> Iterator[None]:
    """Pruners that these tests register are gone afterwards."""
    before = dict(SCORES)
    yield
    SCORES.clear()
    SCORES.update(before)


STRANGE = """
import torch, torch.nn as nn
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3072, 20), nn.Linear(20, 20), nn.Linear(20, 10)
        self.c = nn.Linear(20, 20)
        self.c.weight = self.b.weight
    def forward(self, x):
        return self.head(self.c(self.b(self.a(x.flatten(1)).relu()).relu()).relu())
def frozen():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).requires_grad_(False)
class NoGrad(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3072, 10)
    @torch.no_grad()
    def forward(self, x):
        return self.head(x.flatten(1))
class Bomb(NoGrad):
    def forward(self, x):
        return {}["boom"] if self.training else self.head(x.flatten(1))
class Complex(NoGrad):
    def forward(self, x):
        return self.head(x.flatten(1)) + 1j
def nan():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    nn.init.constant_(model[1].weight, float("nan"))
    return model
def raises(model, masks, inputs):
    return [][1]
def nothing(model, masks, inputs):
    pass
def wrong_shape(model, masks, inputs):
    return {name: torch.ones(3) for name in masks}
"""


def test_tied_weights_are_saved_under_each_name(tmp_path: Path, module_named) -> None:
    module_named("strange", STRANGE)
    experiment = replace(SMALL, setup=Setup(model="strange:Tied", device="cpu"), compression=4)
    run = perform(experiment, Execution(runs=tmp_path / "runs"))
    weights = load_file(run.folder / "weights.safetensors")
    assert torch.equal(weights["b.weight"], weights["c.weight"])
    build("strange:Tied", weights=str(run.folder / "weights.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    {
        "--model strange:frozen": "every parameter is frozen",
        "--model strange:NoGrad": "the model's output has no gradient",
        "--model strange:Bomb": "the model's forward failed on an input of shape (128, 3, 32, 32)",
        "--model strange:Complex": "numbers as the model's output, got complex64 (2, 10)",
        "--model strange:nan": "'1.weight' holds NaN or infinite values",
        "--model fc --pruner strange:raises": "pruner 'strange:raises' failed: IndexError",
        "--model fc --pruner strange:nothing": "returned NoneType: expected a dict of tensors",
        "--model fc --pruner strange:wrong_shape": "layer '1.weight': expected scores of shape",
    }.items(),
)
def test_strange_models_and_pruners_are_one_line(
    arguments: str, message: str, run: RunCommand, module_named
) -> None:
    module_named("strange", STRANGE)
    line = f"{arguments} --compression 2 --epochs 1 --train-samples 200 --quiet --device cpu"
    code, out, err = run(command, line)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_wrong_request_touches_no_run(tmp_path: Path, run: RunCommand) -> None:
    mine = _interrupt_after(SMALL, tmp_path / "runs", 2)
    (mine.folder / "failed.json").unlink()
    line = f"{ARGUMENTS} --runs {tmp_path / 'runs'}"
    code, _, err = run(command, f"{line} --input-shape 6")
    assert code == 2
    assert "--input-shape (6,): 'digits' has inputs of shape (3, 32, 32)" in err
    assert mine.status()["state"] == "paused"
    for wrong in ("--init foo", "--compression 1e30", "--train-samples 7", "--model nope"):
        assert run(command, f"{line} {wrong} --runs {tmp_path / 'none'}")[0] == 2
        assert not list((tmp_path / "none").glob("*"))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    early = Execution(runs=tmp_path / "file")
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot write"):
        perform(SMALL, early)
    for runs in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(
            RequestError, match=r"--runs .* expected a folder, but '.*file' is a file"
        ):
            Execution(runs=runs)


def test_a_run_whose_failure_cannot_be_noted_ends_no_sweep(tmp_path: Path) -> None:
    run = replace(SMALL, compression=4).run(tmp_path)
    (run.folder / "failed.json").mkdir(parents=True)
    run.fail("whatever it was")
    assert run.status()["state"] == "waiting"


def test_an_emptied_list_of_checksums_is_no_proof(tmp_path: Path, capsys) -> None:
    run = perform(SMALL, Execution(runs=tmp_path))
    (run.folder / "done.json").write_text("{}")
    perform(SMALL, Execution(runs=tmp_path))
    assert "is corrupt (done.json does not list" in capsys.readouterr().err


def test_conserved_quantities_of_an_unfinished_run(tmp_path: Path) -> None:
    run = _interrupt_after(SMALL, tmp_path, 3)
    part = run.table("conserved_quantity")
    whole = perform(SMALL, Execution(runs=tmp_path)).table("conserved_quantity")
    assert len(part) == 4 * 500  # epochs 0 to 3 of five times a hundred units
    pd.testing.assert_frame_equal(part, whole.iloc[: len(part)])
