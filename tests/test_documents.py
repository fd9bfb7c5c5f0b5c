"""Every block of the documents works as printed: Python runs, command lines are understood."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import collapse
from analysis import results
from analysis.experiments import find
from collapse import cli, tables
from collapse import masks as masking
from collapse.options import Pruning
from collapse.scores import SCORES

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
# Where the slow test finds images in place of DIR: CIFAR-10 and -100, Tiny-ImageNet.
DATA = Path(os.environ.get("COLLAPSE_DATA_ROOT", ROOT.parent / "shared" / "data"))
SECONDS = 90  # longer work is interrupted
USERS = {
    "mypackage/__init__.py": "",
    "mypackage/models.py": """
        import torch
        from torch import nn

        class MyNet(nn.Sequential):
            def __init__(self, classes):
                super().__init__(nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.Flatten(),
                                 nn.Linear(8 * 16 * 16, classes))

        class Regressor(nn.Sequential):
            def __init__(self):
                super().__init__(nn.Flatten(), nn.Linear(3 * 9 * 9, 8), nn.ReLU(), nn.Linear(8, 1))

        class Detector(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Conv2d(3, 8, 3)
                self.classes, self.boxes = nn.Linear(8, 5), nn.Linear(8, 4)

            def forward(self, x):
                h = self.body(x).relu().mean((2, 3))
                return {"classes": self.classes(h), "boxes": self.boxes(h)}
        """,
    "mypackage/data.py": """
        import torch
        import torch.nn.functional as F

        def batches():
            targets = {"classes": torch.arange(10) % 5, "boxes": torch.rand(10, 4)}
            return [(torch.randn(10, 3, 9, 9), targets)]

        def numbers():
            return [(torch.randn(10, 3, 9, 9), torch.rand(10, 1))]

        def loss(output, targets):
            classes = F.cross_entropy(output["classes"], targets["classes"])
            return classes + F.l1_loss(output["boxes"], targets["boxes"])
        """,
    "mymodule.py": """
        from mypackage.prune import score as my_pruner
        """,
    "mypackage/prune.py": """
        import torch

        def score(model, masks, inputs):
            (x, y), = inputs.batches
            inputs.loss(model(x), y).backward()
            weights = dict(model.named_parameters())
            return {name: (weights[name] * weights[name].grad).detach().abs() for name in masks}
        """,
}


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a language, those inside lists too."""
    pattern = rf"^( *)```{language}\n(.*?)^ *```"
    found = re.findall(pattern, document.read_text(), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for _, block in found]


def commands() -> Iterator[tuple[str, str]]:
    """Each command line of the toolkit, with the document that prints it; once each."""
    seen = set()
    for document in DOCUMENTS:
        for block in blocks(document, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while words and (words[0] in _UV or words[0] in _EXTRAS):
                    words = words[1:]
                text = shlex.join(words)
                if words[:1] in (["python"], ["collapse"]) and text not in seen:
                    seen.add(text)
                    yield document.name, text


_UV = ("uv", "run", "--no-dev", "--extra")
_EXTRAS = ("report", "cluster", "zoo", "transformers")
COMMANDS = list(commands())


def _ids(text: str) -> str:
    return text.removeprefix("python -m ")[:60]


class Understood(BaseException):
    """A command line that was parsed; nothing is to run."""


@pytest.fixture
def users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the documents take for granted: the reader's modules, a sweep's file."""
    for name, text in USERS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    (grid,) = blocks(ROOT / "docs" / "training.md", "toml")
    (tmp_path / "grid.toml").write_text(grid)
    for block in blocks(ROOT / "docs" / "tutorial.md", "python"):
        if name := re.match(r"# (\w+\.py)\n", block):  # a file that the reader saves
            (tmp_path / name[1]).write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("document", "command"), COMMANDS, ids=_ids)
def test_command_lines_are_understood(
    document: str, command: str, users_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = cli.parse

    def parsed(*arguments, **options):
        request = parse(*arguments, **options)
        if hasattr(request, "setup"):
            request.setup.check()
        raise Understood

    monkeypatch.setattr(cli, "parse", parsed)
    words = shlex.split(command)
    module, rest = ("collapse", words[1:]) if words[0] == "collapse" else (words[2], words[3:])
    monkeypatch.setattr(sys, "argv", [module, *rest])
    with pytest.raises(Understood):
        runpy.run_module(module, run_name="__main__")


def test_there_are_command_lines_to_understand() -> None:
    assert len(COMMANDS) > 30
    assert {name for name, _ in COMMANDS} >= {"README.md", "figures.md", "training.md"}


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="set COLLAPSE_DATA_ROOT to a folder of images")
@pytest.mark.parametrize(("document", "command"), COMMANDS, ids=_ids)
def test_command_lines_run(document: str, command: str, users_folder: Path) -> None:
    """To the end, or for 90 seconds: long work that is interrupted has said nothing wrong.

    What another command makes is made beforehand, small (``_make_inputs``).
    """
    if "HOST:" in command:
        pytest.skip("HOST stands for the reader's cluster")
    words = shlex.split(re.sub(r"\bDIR\b", str(DATA), command))
    _make_inputs(words, users_folder)
    program = [sys.executable, "-m", "collapse"] if words[0] == "collapse" else [sys.executable]
    path = f"{ROOT}{os.pathsep}{users_folder}"
    environment = {**os.environ, "PYTHONPATH": path, "COLLAPSE_DATA": str(DATA)}
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # tests in a shell's background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [*program, *words[1:]], cwd=users_folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    ) as work:  # fmt: skip
        try:
            said, _ = work.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(work.pid, signal.SIGINT)
            said, _ = work.communicate(timeout=60)
        finally:  # whatever happens, nothing goes on
            with suppress(ProcessLookupError):
                os.killpg(work.pid, signal.SIGKILL)
    assert work.returncode in (0, 1, 130, -signal.SIGINT), said[-2000:]
    assert "Traceback" not in said


def _make_inputs(words: list[str], folder: Path) -> None:
    """The files that a command line reads: what another one makes, small, or somebody's own."""
    made = {words[i + 1] for i, word in enumerate(words[:-1]) if word in _WRITES}
    reads = [word for word in words if word not in made]
    torch.manual_seed(0)
    network = "mynet:TwoBranches" if "mynet:TwoBranches" in words else "fc"
    for file in reads:
        if file.endswith(".parquet") and words[:3] == ["python", "-m", "figures"]:
            _table_of(file, folder, published="--published" in words)
        elif file.endswith(".pt"):  # most of a layer is zero
            state = collapse.build("resnet18").state_dict()
            state["layer4.1.conv2.weight"][1:] = 0
            torch.save(state, folder / file)
        elif file == "w.safetensors":
            save_file(collapse.build("fc").state_dict(), folder / file)
        elif file.endswith(".safetensors"):
            dense = masking.dense(collapse.build(network))
            masks = {name: torch.rand(mask.shape) < 0.1 for name, mask in dense.items()}
            masking.save_masks(masks, folder / file)


_WRITES = ("--out", "--table", "--plot", "--zeros", "--torch-prune")


def _table_of(table: str, folder: Path, *, published: bool) -> None:
    """The table that a figure draws: small, or ours of the paper's network."""
    name = table.removesuffix(".parquet")
    if published:
        frame = results.load(name)
        assert frame is not None
        tables.write(frame, folder / table, find(name).TABLE)
        return
    words = ["-m", "analysis", name, "--preset", "smoke", "--out", table]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *words], cwd=folder, env=environment, check=True)


def test_readmes_python_runs() -> None:
    registered = set(SCORES)
    found: dict[str, object] = {}
    for block in blocks(ROOT / "README.md", "python"):  # each by itself, as a reader copies it
        names: dict[str, object] = {}
        exec(block, names)
        found |= names
    assert set(SCORES) - registered == {"saliency"}
    assert abs(collapse.density(found["pruned"].masks) - 0.01) < 1e-4
    assert found["result"].evidence == "closed form"
    assert found["result"].critical_compression > 10  # of a network that nobody pruned before
    found["test_my_pruner"]()
    batches = [(torch.randn(6, 6), torch.arange(6) % 3)]
    mlp = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    assert len(collapse.prune(mlp, batches, Pruning("saliency"), compression=4).steps) == 10


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if "docs" in d.parts], ids=lambda d: d.stem
)
def test_python_of_the_pages_runs(document: Path, users_folder: Path) -> None:
    """In order, as one session; or it is a quotation of the engine, word for word."""
    engine = [_bare(path.read_text()) for path in (ROOT / "collapse").rglob("*.py")]
    names: dict[str, object] = {}
    for block in blocks(document, "python"):
        if not any(_bare(block) in source for source in engine):
            if "transformers:" in block:
                pytest.importorskip("transformers")
            exec(block, names)


def _bare(source: str) -> str:
    """Without indentation and the last line's end."""
    return "\n".join(line.strip() for line in source.strip().splitlines())
