"""Names of runs cover the code that a user names: an edited network brings nothing stale back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from collapse.errors import RequestError
from collapse.options import Pruning, Setup
from collapse.runs import Experiment
from collapse.runs.source import source_hash

FILES = {
    "edited_net/__init__.py": "",
    "edited_net/model.py": "from torch import nn\nfrom .blocks import width\n"
    "from . import helpers as h\n"
    "import numpy\n\n"
    "def build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(48, width()))\n",
    "edited_net/blocks.py": "import edited_net.deep.inner\n\n"
    "def width():\n    return edited_net.deep.inner.WIDTH\n",
    "edited_net/helpers.py": "",
    "edited_net/deep/__init__.py": "",
    "edited_net/deep/inner.py": "WIDTH = 10\n",
    "edited_net/other.py": "# nobody imports this\n",
    "edited_scores.py": "def ones(model, masks, inputs):\n"
    "    return {n: m.float() for n, m in masks.items()}\n",
}


@pytest.fixture
def folder(tmp_path: Path, module_named: Callable[[str, str], None]) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0] in ("edited_net", "edited_scores")]:
        del sys.modules[name]


@pytest.mark.parametrize("file", FILES)
def test_every_module_behind_a_network_counts(file: str, folder: Path) -> None:
    before = source_hash("edited_net.model:build", "model")
    assert before == source_hash("edited_net.model:build", "model")
    with (folder / file).open("a") as edited:
        edited.write("\n# edited\n")
    counts = file not in ("edited_net/other.py", "edited_scores.py")
    assert (source_hash("edited_net.model:build", "model") != before) == counts


def test_code_with_a_version_does_not_count() -> None:
    assert source_hash("vgg16", "model") is None
    assert source_hash("torchvision:resnet18", "model") is None
    assert source_hash("analysis.experiments.dead_inputs:informed_synflow", "pruner") is None


def test_what_cannot_be_imported_is_one_line(folder: Path) -> None:
    with pytest.raises(RequestError, match="'edited_nett.model:build': importing 'edited_nett"):
        source_hash("edited_nett.model:build", "model")


def test_runs_and_points_of_an_edited_network_have_other_names(folder: Path) -> None:
    setup = Setup("edited_net.model:build", dataset="gaussian", input_shape=(3, 4, 4), classes=10)
    experiment = Experiment(setup, Pruning("edited_scores:ones"), compression=2.0)
    names = [(experiment.run(folder / "runs").name, str(experiment.scoring_config()))]
    for file in ("edited_net/deep/inner.py", "edited_scores.py"):
        with (folder / file).open("a") as edited:
            edited.write("\n# edited\n")
        names.append((experiment.run(folder / "runs").name, str(experiment.scoring_config())))
    for column in zip(*names, strict=True):
        assert len(set(column)) == 3


def test_a_package_of_the_users_may_be_called_as_one_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an edited network in it, the finished run of the old one would be given back."""
    package = tmp_path / "analysis"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nets.py").write_text("WIDTH = 1\ndef build(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "analysis"]:
        monkeypatch.delitem(sys.modules, name)
    before = source_hash("analysis.nets:build", "model")
    (package / "nets.py").write_text("WIDTH = 2\ndef build(): pass\n")
    assert before is not None
    assert source_hash("analysis.nets:build", "model") != before
    for name in ("analysis", "analysis.nets"):
        monkeypatch.delitem(sys.modules, name)
