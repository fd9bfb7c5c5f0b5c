"""What answers at once, and the console script: torch is imported after the request is read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.__main__ import NAMES
from collapse import __main__ as console
from collapse.commands import CHECKOUT
from collapse.errors import RequestError
from figures.commands import FIGURES

ROOT = Path(__file__).parents[2]
HEAVY = ("matplotlib", "numpy", "pandas", "pyarrow", "scipy", "sklearn", "torch", "torchvision")
DOORS = ("critical", "pruning", "conservation", "train", "imp")
# Module, words, exit code, and a part of what is printed.
AT_ONCE: list[tuple[str, list[str], int, str]] = [
    *((f"collapse.{door}", ["--help"], 0, "--samples-per-class") for door in DOORS),
    *((f"collapse.{door}", ["--version"], 0, "layer-collapse 0.1.0") for door in DOORS),
    *((f"collapse.{door}", ["--modle", "fc"], 2, "nearest: --mode") for door in DOORS),
    ("collapse.doctor", ["--help"], 0, "--fail-on"),
    ("collapse.doctor", ["--model", "resnet2O"], 2, "unknown model 'resnet2O'; nearest: res"),
    ("collapse.doctor", ["--model", "fc", "--out", "a.xls"], 2, "expected a suffix of"),
    ("collapse.masks", ["--help"], 0, "--combine"),
    ("collapse.masks", ["a.safetensors", "--zeros", "b.safetensors"], 2, "expected --model"),
    ("collapse", ["masks"], 2, "expected at least one file"),
    ("collapse", ["doctor", "--help"], 0, "usage: collapse doctor"),
    ("collapse.critical", ["--model", "resnet2O"], 2, "unknown model 'resnet2O'; nearest: res"),
    ("collapse.critical", ["--model", "fc", "--dataset", "cifr10"], 2, "nearest: cifar10"),
    ("collapse.critical", ["--model", "fc", "--pruners", "synflo"], 2, "nearest: synflow"),
    ("collapse.critical", ["--model", "fc", "--out", "a.xls"], 2, "expected a suffix of"),
    ("collapse", ["--help"], 0, "conservation    Are a network's saliencies conserved"),
    ("collapse", ["--help"], 0, "report          one page about one network"),
    ("collapse", [], 2, "usage: collapse NAME"),
    ("collapse", ["--version"], 0, "layer-collapse 0.1.0"),
    ("collapse", ["crtical"], 2, "unknown command 'crtical'; nearest: critical"),
    ("collapse", ["prune", "--help"], 0, "usage: collapse prune"),
    *(("collapse", [name, "--help"], 0, f"usage: collapse {name}") for name in CHECKOUT),
    *(("analysis", [name, "--help"], 0, f"usage: python -m analysis {name}") for name in NAMES),
    *(("analysis", [name, "--version"], 0, "layer-collapse 0.1.0") for name in NAMES),
    *(("analysis", [name, "--prest", "paper"], 2, "unknown option '--prest'") for name in NAMES),
    ("analysis", ["accuracy", "--preset", "nope"], 2, "unknown preset 'nope'"),
    ("analysis", ["accuracy", "--out", "a.xls"], 2, "expected a suffix of"),
    ("analysis", ["accuracy", "--model", "resnet2O"], 2, "unknown model 'resnet2O'; nearest: res"),
    ("analysis", ["grid", "--models", "fc", "vgg61"], 2, "unknown model 'vgg61'; nearest: vgg"),
    ("analysis", ["dead-inputs", "--datasets", "framed-cifr10"], 2, "nearest: cifar10"),
    ("analysis", ["levels", "--pruner", "synflo"], 2, "unknown pruner 'synflo'; nearest: synflow"),
    ("analysis", ["sanity", "--pruners", "snp"], 2, "unknown pruner 'snp'; nearest: snip"),
    ("analysis", ["nope"], 2, "unknown experiment 'nope'; one of: accuracy"),
    ("figures", ["all", "--help"], 0, "--suffix"),
    *(("figures", [name, "--help"], 0, "--published") for name in FIGURES),
    *(("figures", [name, "--ot", "a.pdf"], 2, "unknown option '--ot'") for name in FIGURES),
    ("figures", ["nope"], 2, "unknown figure 'nope'; one of: accuracy"),
    ("figures", ["--version"], 0, "layer-collapse 0.1.0"),
]
# In one process, because each has to leave the heavy modules out anyway.
SCRIPT = """
import contextlib, io, json, runpy, sys
answers, heavy = [], set(sys.argv[1:])
for module, words, *_ in json.load(sys.stdin):
    sys.argv, printed, code = [module, *words], io.StringIO(), 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            code = stop.code or 0
    answers.append([code, printed.getvalue(), sorted(heavy & set(sys.modules))])
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[list]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *HEAVY],
        input=json.dumps(AT_ONCE), capture_output=True, text=True, check=True,
        cwd=tmp_path_factory.mktemp("empty"),
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.parametrize("place", range(len(AT_ONCE)), ids=lambda n: " ".join(AT_ONCE[n][1]) or "-")
def test_it_answers_without_torch(answers: list[list], place: int) -> None:
    _, _, code, words = AT_ONCE[place]
    found, printed, imported = answers[place]
    assert imported == []
    assert (found, words in printed) == (code, True), printed
    if code == 2 and AT_ONCE[place][1]:
        assert printed.count("\n") == 1


def test_a_perceptron_needs_neither_torchvision_nor_torchs_compiler(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom collapse.commands.critical import run\n"
        "try: run('--model fc --pruners magnitude --quiet'.split())\n"
        "except SystemExit as stop: print(stop.code or 0)\n"
        "print({'torchvision', 'torch._dynamo', 'sklearn'} & set(sys.modules) or 'none')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-2:] == ["0", "none"]


def test_both_names_of_a_command_are_the_same_code() -> None:
    for name, command in console.COMMANDS.items():
        room = {"prune": "pruning"}.get(name, name)
        assert command.__name__ == f"collapse.commands.{room}"
        text = (ROOT / "collapse" / room / "__main__.py").read_text()
        assert f"from collapse.commands.{room} import run\n\nrun()" in text
    for name in CHECKOUT:
        assert (ROOT / "analysis" / "commands" / f"{name}.py").exists()


def test_an_installed_wheel_says_what_needs_a_checkout(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "collapse", tmp_path / "collapse")  # the wheel ships this folder alone
    done = subprocess.run(
        [sys.executable, "-m", "collapse", "report", "--model", "fc"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "'collapse report' needs a checkout of the repository" in done.stderr


def test_an_unknown_command_is_one_line() -> None:
    with pytest.raises(RequestError, match="unknown command 'pruning'; nearest: prune"):
        console.dispatch(["pruning"])
