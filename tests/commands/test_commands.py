"""The command lines: what they print and write, and one line for every mistake."""

from __future__ import annotations

import io
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

from collapse import masks as masking
from collapse import tables
from collapse.commands import conservation, critical, pruning
from collapse.models import build
from collapse.options import Pruning
from collapse.pruning import prune
from collapse.scores import SCORES
from tests.conftest import Run

SMALL = "--model fc --dataset gaussian --input-shape 3 8 8 --classes 4 --quiet"


# --- What they do -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """`python -m collapse.critical` as a user types it, on a small network, with all its files."""
    folder = tmp_path_factory.mktemp("critical")
    files = {"--out": "o.parquet", "--layers": "l.csv", "--plot": "p.png"}
    words = f"{SMALL} --seeds 0 1 --scan 0".split()
    words += [word for option, name in files.items() for word in (option, str(folder / name))]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["", *words])
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("collapse.critical", run_name="__main__", alter_sys=True)
    assert (stop.value.code, err.getvalue()) == (0, "")
    return out.getvalue(), folder


def test_critical_prints_a_row_a_pruner_and_seed(whole_run: tuple[str, Path]) -> None:
    out, _ = whole_run
    assert "27,600 parameters in 6 layers" not in out  # 192 inputs, not 3,072
    assert f"{192 * 100 + 4 * 100 * 100 + 400:,} parameters in 6 layers" in out
    for pruner, rows in {"random": 2, "magnitude": 2, "snip": 2, "grasp": 2, "synflow": 4}.items():
        assert sum(line.split()[:1] == [pruner] for line in out.splitlines()) == rows


def test_critical_table_has_the_contracts_columns_and_values(whole_run: tuple[str, Path]) -> None:
    frame, metadata = tables.read(whole_run[1] / "o.parquet", "critical")
    assert len(frame) == 12
    assert "collapse.critical" in metadata["command"].replace("/", ".")
    assert set(frame["input_shape"]) == {"3x8x8"}
    certified = frame[frame["schedule"] == "certified"]
    assert (certified["critical_compression"] == certified["maximal_compression"]).all()
    assert certified["collapse_compression"].isna().all()
    assert certified["certified"].all()
    once = frame[(frame["iterations"] == 1)]
    assert (once["collapse_compression"] > once["critical_compression"]).all()
    assert once["monotone"].all()
    assert frame.loc[frame["pruner"] == "random", "mode"].isna().all()
    assert set(frame.loc[frame["pruner"] == "snip", "mode"]) == {"train"}
    # By hand: the closed form of magnitude pruning on the same network.
    model = build("fc", input_shape=(3, 8, 8), classes=4, seed=1)
    weights = [p.detach().abs().flatten() for n, p in model.named_parameters() if "weight" in n]
    weakest = min(float(w.max()) for w in weights)
    rank = sum(int((w >= weakest).sum()) for w in weights)
    row = frame[(frame["pruner"] == "magnitude") & (frame["seed"] == 1)].iloc[0]
    assert row["critical_kept"] == rank


def test_layers_table_surrounds_the_collapse(whole_run: tuple[str, Path]) -> None:
    frame, _ = tables.read(whole_run[1] / "l.csv", "layers")
    table, _ = tables.read(whole_run[1] / "o.parquet", "critical")
    row = table[(table["pruner"] == "snip") & (table["seed"] == 0)].iloc[0]
    mine = frame[(frame["pruner"] == "snip") & (frame["seed"] == 0)]
    kept = mine.groupby("compression")["kept"].agg(["sum", "min"]).reset_index()
    at = kept.set_index("sum")["min"]
    assert at[row["critical_kept"]] >= 1
    assert at[row["critical_kept"] - 1] == 0
    fallen = mine[(mine["kept"] == 0)]
    assert row["first_collapsed_layer"] in set(fallen["layer"])
    assert (frame["effective_kept"] <= frame["kept"]).all()
    assert (frame["density"] * frame["parameters"]).tolist() == pytest.approx(
        frame["kept"].tolist()
    )


def test_plot_is_there(whole_run: tuple[str, Path]) -> None:
    assert (whole_run[1] / "p.png").read_bytes().startswith(b"\x89PNG")


def test_pruning_saves_masks_that_start_the_next(run: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    code, out, _ = run(pruning, f"{SMALL} --compression 4 --iterations 5 --out {first}")
    assert code == 0
    assert "compression 4" in out
    model = build("fc", input_shape=(3, 8, 8), classes=4)
    batch = [(torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.long))]
    expected = prune(model, batch, Pruning(iterations=5), compression=4).masks
    loaded = masking.load_masks(first, model)
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    code, _, _ = run(
        pruning, f"{SMALL} --compression 8 --iterations 5 --masks {first} --out {second} "
        f"--trace {tmp_path / 't.json'} --layers {tmp_path / 'l.parquet'}",
    )  # fmt: skip
    assert code == 0
    again = masking.load_masks(second, model)
    assert all(bool((again[name] <= loaded[name]).all()) for name in again)
    trace, _ = tables.read(tmp_path / "t.json", "trace")
    assert trace["iteration"].max() == 5
    layers, _ = tables.read(tmp_path / "l.parquet", "layers")
    assert layers["kept"].sum() == masking.kept(again)


def test_pruning_exits_1_when_a_layer_collapses(run: Run) -> None:
    code, out, _ = run(pruning, f"{SMALL} --compression 5000 --pruner magnitude")
    assert code == 1
    assert "collapsed: " in out


def test_pruning_nothing_is_fine(run: Run, tmp_path: Path) -> None:
    code, _, _ = run(pruning, f"{SMALL} --compression 1 --trace {tmp_path / 't.csv'}")
    assert code == 0
    assert len(tables.read(tmp_path / "t.csv", "trace")[0]) == 0


def test_help_explains_every_option(run: Run) -> None:
    for command in (conservation, critical, pruning):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert "--samples-per-class" in out
        assert "``" not in out  # markup of the docstrings


def test_ctrl_c_leaves_nothing_half_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pandas.DataFrame.to_csv", interrupted)
    code, _, err = run(critical, f"{SMALL} --pruners magnitude --out {tmp_path / 'o.csv'}")
    assert (code, err) == (130, "interrupted\n")
    assert list(tmp_path.iterdir()) == []


# --- Wrong requests ---------------------------------------------------------------------------

MISTAKES = {
    "--modle fc": "unknown option '--modle'; nearest: --mode, --model",
    "": "--model",
    "--model fcc": "unknown model 'fcc'; nearest: fc",
    "--model fc --pruners synflo": "unknown pruner 'synflo'; nearest: synflow",
    "--model fc --pruners": "--pruners: expected at least one of",
    "--model fc --seeds": "--seeds: expected at least one",
    "--model fc --seeds one": "--seeds",
    "--model fc --dataset cifr10": "unknown dataset 'cifr10'; nearest: cifar10",
    "--model fc --mode both": "invalid choice 'both'",
    "--model fc --schedule certified --pruners snip": "needs positive, conserved scores",
    "--model fc --iterations 0": "--iterations: expected at least 1, got 0",
    "--model fc --scan -1": "scan: expected 0 or more, got -1",
    "--model fc --init he": "unknown init 'he'",
    "--model fc --classes 3": "--classes 3: 'digits' has 10 classes",
    "--model fc --input-shape 1 28 28": "'digits' has inputs of shape (3, 32, 32)",
    "--model fc --samples-per-class 0": "--samples-per-class: expected at least 1, got 0",
    "--model vgg16 --dataset gaussian --input-shape 3 8 8 --pruners snip": "forward failed",
    "--model vgg16 --dataset gaussian --input-shape 12": "takes images",
    "--model fc --out table.xls": "expected a suffix of .parquet, .csv, .json",
    "--model fc --out /proc/none/o.csv": "cannot write",
    "--model fc --plot /proc/none/o.pdf": "cannot write",
    "--model fc --plot plot.xyz": "expected a suffix of",
    "--model net:relu": "has no prunable layer",
    "--model net:nan --pruners magnitude": "'weight' holds NaN or infinite values",
    "--model net:fails": "forward failed on an input of shape",
    "--model net:pair": "got tuple with parts 0, 1; choose one with --output",
    "--model net:table --output logit": "output 'logit' of the model is no tensor",
    "--model torchvision:vgg61": "unknown torchvision model 'vgg61'",
    "--model mymodel": "(or torchvision:NAME, timm:NAME, transformers:CONFIG, package",
    "--model fc --dataset gaussian --classes 0": "classes: expected at least 1, got 0",
    "--model fc --dataset gaussian --input-shape 3 0 8": "input shape: expected positive sizes",
    "--model fc --out a.csv --layers a.csv": "'a.csv' is named for two results",
    "--model net:silent --pruners snip": "every snip score is zero",
    "--model net:gone --pruners synflow": "'Tensor' object has no attribute 'nowhere'",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: str, run: Run, module_named, tmp_path: Path
) -> None:
    module_named(
        "net",
        "import torch\n"
        "from torch import nn\n"
        "class Wrapped(nn.Module):\n"
        "    def __init__(self, wrap):\n"
        "        super().__init__()\n"
        "        self.head, self.wrap = nn.Linear(32, 10), wrap\n"
        "    def forward(self, x): return self.wrap(self.head(x[:, 0, 0]))\n"
        "def relu(): return nn.ReLU()\n"
        "def nan():\n"
        "    model = nn.Linear(32, 10)\n"
        "    nn.init.constant_(model.weight, float('nan'))\n"
        "    return model\n"
        "def fails(): return nn.Linear(7, 10)\n"
        "def pair(): return Wrapped(lambda y: (y, y))\n"
        "def table(): return Wrapped(lambda y: {'logits': y})\n"
        "def silent(): return Wrapped(lambda y: y.detach())\n"
        "def gone(): return Wrapped(lambda y: setattr(y, 'no attribute', y.nowhere))\n",
    )
    code, out, err = run(critical, f"{arguments} --quiet")
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert MISTAKES[arguments] in err
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".py"
            and path.name != "__pycache__"] == []  # fmt: skip


PRUNING_MISTAKES = {
    "--compression 0.5": "expected a finite number from 1 up, got 0.5",
    "--compression 1e9": "above the maximum",
    "--compression many": "--compression",
    "--compression 4 --masks {other}": "are of another network",
    "--compression 4 --masks none.safetensors": "cannot be read",
    "--compression 4 --out masks.pt": "expected a suffix of .safetensors",
    "--compression 4 --out /proc/none/m.safetensors": "cannot write",
    "--compression 4 --pruner certified": "unknown pruner 'certified'",
    "--compression 4 --pruner snip --schedule certified": "needs positive, conserved scores",
    "--compression 4 --weights {other}": "weights",
    "--compression 4 --masks {folder}": "expected a file, there is none",
    "--compression 4 --masks {nothing}": "keep nothing: expected at least one survivor",
    "--compression 4 --masks {part}": "no mask of '3.weight'",
    "--compression 4 --layers {folder}": "it is a folder, expected a file name",
}


@pytest.mark.parametrize("arguments", PRUNING_MISTAKES)
def test_pruning_mistakes(arguments: str, run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    masking.save_masks({"0.weight": torch.ones(2, 2, dtype=torch.bool)}, other)
    whole = masking.dense(build("fc", input_shape=(3, 8, 8), classes=4))
    masking.save_masks({"1.weight": whole["1.weight"]}, tmp_path / "part.safetensors")
    masking.save_masks({n: ~m for n, m in whole.items()}, tmp_path / "nothing.safetensors")
    files = {name: tmp_path / f"{name}.safetensors" for name in ("other", "part", "nothing")}
    code, out, err = run(pruning, f"{SMALL} {arguments.format(**files, folder=tmp_path)}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert PRUNING_MISTAKES[arguments] in err


def test_no_gpu_when_one_is_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = run(critical, f"{SMALL} --device cuda")
    assert (code, err.count("\n")) == (2, 1)
    assert "--device cuda: no such GPU here; available: " in err


# --- Conservation -------------------------------------------------------------------------------


def test_conservation_prints_the_worst_and_writes_everything(run: Run, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("ledger.parquet", "layers.csv", "fig.png")}
    code, out, err = run(
        conservation, "--model vgg11_bn --pruner synflow --tolerance 1e-5 --quiet --out "
        f"{files['ledger.parquet']} --layers {files['layers.csv']} --plot {files['fig.png']}",
    )  # fmt: skip
    assert (code, err) == (0, "")
    for identity in ("output units", "neuron", "batchnorm eval", "cut", "score"):
        assert f"  {identity} " in out
    assert "slope 1.00000" in out
    ledger, _ = tables.read(files["ledger.parquet"], "conservation")
    assert (ledger["residual"] <= 1e-5).all()
    assert ledger[ledger["identity"] == "cut"]["place"].nunique() == 9
    layers, _ = tables.read(files["layers.csv"], "layers")
    sums = layers["score_sum"]
    assert sums.max() / sums.min() - 1 < 1e-5
    assert files["fig.png"].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "arguments",
    [
        "--pruner snip --samples-per-class 2",
        "--pruner snip --mode eval --samples-per-class 2 --compression 4",
        "--pruner grasp --samples-per-class 2 --dtype float64 --tolerance 1e-10",
        "--pruner synflow --compression 100 --dtype float64 --tolerance 1e-10",
    ],
)
def test_conservation_holds_for_the_papers_pruners(run: Run, arguments: str) -> None:
    code, out, _ = run(conservation, f"{SMALL} {arguments}")
    assert code == 0, out


PLANTED = {
    "scaled": "score layers fails at 5.weight: 1.01 against 1",
    "absolute": "score neurons fails at",
    "magnitude_again": "score layers fails at",
}


def test_table_lists_what_is_never_gated(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "ledger.csv"
    code, _, _ = run(
        conservation, "--model torchvision:mobilenet_v3_small --pruner snip --samples-per-class 1 "
        f"--mode eval --quiet --out {out}",
    )  # fmt: skip
    assert code == 0
    rows = tables.read(out, "conservation")[0].groupby("identity")["residual"].max()
    assert rows["outside the theory"] > 1e-3
    assert rows["absolute score neurons"] > 1e-3
    assert rows.drop(["outside the theory", "absolute score neurons", "absolute score layers"],
                     errors="ignore").max() < 1e-5  # fmt: skip


def test_scores_that_nothing_can_hold_are_said_to_be_unchecked(run: Run, module_named) -> None:
    module_named(
        "cross",
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Linear(8, 4), nn.Linear(8, 4)\n"
        "    def forward(self, x): return self.a(x) + self.b(x)\n",
    )
    code, out, _ = run(
        conservation, "--model cross:Net --dataset gaussian --input-shape 8 --classes 4 --quiet "
        "--pruner magnitude",
    )  # fmt: skip
    assert code == 0
    assert "its scores were held to nothing" in out


@pytest.mark.parametrize("fault", PLANTED)
def test_a_broken_pruner_of_a_user_exits_1_and_is_named(run: Run, module_named, fault) -> None:
    module_named(
        "broken",
        "from collapse.scores import SCORES\n"
        "def scaled(model, masks, inputs):\n"
        "    scores = SCORES['synflow'](model, masks, inputs)\n"
        "    scores['5.weight'] = scores['5.weight'] * 1.01\n"
        "    return scores\n"
        "def absolute(model, masks, inputs): return SCORES['snip'](model, masks, inputs)\n"
        "def magnitude_again(model, masks, inputs):\n"
        "    weights = dict(model.named_parameters())\n"
        "    return {name: weights[name].detach().abs() for name in masks}\n",
    )
    code, out, _ = run(conservation, f"{SMALL} --pruner broken:{fault}")
    SCORES.pop(f"broken:{fault}")
    assert code == 1
    assert PLANTED[fault] in out
    assert "BEYOND TOLERANCE" in out


CONSERVATION_MISTAKES = {
    "--tolerance 0": "--tolerance: expected more than 0, got 0",
    "--tolerance -1": "--tolerance: expected more than 0, got -1",
    "--pruner synflw": "unknown pruner 'synflw'; nearest: synflow, synflow_l2 (or package",
    "--pruner no_module:f": "pruner 'no_module:f': importing 'no_module' failed",
    "--dtype float16": "--dtype",
    "--masks a.safetensors --compression 2": "expected --masks or --compression, got both",
    "--out ledger.xls": "expected a suffix of",
}


@pytest.mark.parametrize("arguments", CONSERVATION_MISTAKES)
def test_conservation_mistakes(run: Run, arguments: str) -> None:
    code, out, err = run(conservation, f"{SMALL} {arguments}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert CONSERVATION_MISTAKES[arguments] in err
