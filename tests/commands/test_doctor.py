"""``collapse doctor`` and ``collapse masks``: what they print, write and refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from collapse import masks as masking
from collapse import tables
from collapse.commands import doctor, masks
from collapse.models import build
from collapse.options import Pruning
from collapse.pruning import prune
from tests.conftest import Run

SHAPE = "--input-shape 3 8 8 --classes 4"
SMALL = f"--model fc {SHAPE} --quiet"
EXAMPLE = torch.zeros(1, 3, 8, 8)


def _masks(compression: float, pruner: str = "synflow") -> dict[str, Tensor]:
    model = build("fc", input_shape=(3, 8, 8), classes=4)
    batch = [(EXAMPLE, torch.zeros(1, dtype=torch.long))]
    options = Pruning(pruner=pruner, iterations=5 if pruner == "synflow" else 1)
    return prune(model, batch, options, compression=compression).masks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A healthy mask, a collapsed one, and a checkpoint with the healthy one's zeros."""
    model = build("fc", input_shape=(3, 8, 8), classes=4)
    identity = masking.weights_identity(model)
    healthy = _masks(10)
    masking.save_masks(healthy, tmp_path / "healthy.safetensors", initial_weights=identity)
    masking.save_masks(_masks(5000, "magnitude"), tmp_path / "collapsed.safetensors")
    torch.save({"state_dict": masking.with_zeros(model, healthy)}, tmp_path / "zeros.pt")
    return tmp_path


def test_healthy_collapsed_and_what_fails(run: Run, folder: Path) -> None:
    code, out, _ = run(doctor, SMALL)
    assert (code, out.splitlines()[-1]) == (0, "healthy")
    code, out, _ = run(doctor, f"{SMALL} --masks {folder}/healthy.safetensors --target 10")
    assert code == 0
    assert "5,960 kept: compression 10" in out
    assert "as asked" in out
    code, out, _ = run(doctor, f"{SMALL} --masks {folder}/collapsed.safetensors")
    assert (code, out.splitlines()[-1]) == (1, "NOT healthy")
    assert "collapsed: " in out
    assert "python -m collapse.pruning --model fc --dataset gaussian --input-shape 3 8 8" in out
    assert run(doctor, f"{SMALL} --masks {folder}/healthy.safetensors --target 20")[0] == 1


def test_a_checkpoint_of_zeros_with_its_baseline_and_table(run: Run, folder: Path) -> None:
    table = folder / "layers.csv"
    code, out, _ = run(
        doctor,
        f"{SMALL} --checkpoint {folder}/zeros.pt --baseline {folder}/healthy.safetensors "
        f"--out {table}",
    )
    assert code == 0
    assert "the baseline kept 5,960 weights, and 5,960 are kept now" in out
    frame, _ = tables.read(table, "doctor")
    assert frame["kept"].sum() == 5960
    assert set(frame["verdict"]) == {"healthy"}
    assert (frame["returned"] == 0).all()
    code, out, _ = run(doctor, f"{SMALL} --baseline {folder}/zeros.pt")
    assert code == 0  # a warning by itself fails only where that is asked for
    assert "warning: 53,640 pruned weights of the baseline came back" in out
    assert run(doctor, f"{SMALL} --baseline {folder}/zeros.pt --fail-on warning")[0] == 1


def test_json_is_all_of_it(run: Run, folder: Path) -> None:
    code, out, _ = run(doctor, f"{SMALL} --masks {folder}/collapsed.safetensors --json")
    found = json.loads(out)
    assert code == 1
    assert found["healthy"] is False
    assert {finding["kind"] for finding in found["findings"]} >= {"no path", "empty"}
    assert len(found["layers"]) == 6


TOKENS = """
import torch.nn as nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)
    def forward(self, ids):
        return self.head(self.words(ids).mean(1))
class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
    def forward(self, x):
        raise KeyError("no such thing")
"""


def test_tokens_and_a_model_that_cannot_be_run(
    run: Run, module_named: Callable[[str, str], None]
) -> None:
    module_named("words_net", TOKENS)
    code, out, _ = run(doctor, "--model words_net:Net --tokens 5 --quiet")
    assert code == 0
    assert "one more scoring by synflow can prune it 12 times further, to compression 12" in out
    code, out, error = run(doctor, "--model words_net:Fails --quiet")
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "forward failed on an input of shape (1, 3, 32, 32)" in error


PART = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Linear(12, 6), torch.nn.Linear(6, 3)
        self.unused = torch.nn.Linear(6, 5)
    def forward(self, x):
        return self.head(self.body(x.flatten(1)).relu())
"""


def test_masks_that_prune_made_of_a_network_with_an_unused_layer(
    run: Run, tmp_path: Path, module_named: Callable[[str, str], None]
) -> None:
    module_named("part_net", PART)
    asked = "--model part_net:Net --input-shape 3 2 2"
    model = build("part_net:Net", input_shape=(3, 2, 2))
    batch = [(torch.zeros(1, 3, 2, 2), torch.zeros(1, dtype=torch.long))]
    pruned = prune(model, batch, Pruning(iterations=2), compression=10).masks
    assert list(pruned) == ["body.weight", "head.weight"]
    masking.save_masks(pruned, tmp_path / "part.safetensors")
    code, out, _ = run(doctor, f"{asked} --masks {tmp_path}/part.safetensors --target 10 --quiet")
    assert code == 0, out
    assert "maximal 45\n" in re.sub(" +\n", "\n", out)  # 90 reached weights in two layers
    assert "as asked: compression 10 keeps 9 of 90, and 9 are, exactly" in out
    assert "note: the masks hold no mask of unused: looked at as in the network" in out
    code, out, _ = run(
        masks, f"{tmp_path}/part.safetensors {asked} --zeros {tmp_path}/zeros.safetensors"
    )
    assert (code, "90 parameters, 9 kept" in out) == (0, True)
    checkpoint = f"{asked} --checkpoint {tmp_path}/zeros.safetensors --quiet"
    assert run(doctor, f"{checkpoint} --target 10")[0] == 0
    assert run(doctor, f"{checkpoint} --target 20")[0] == 1
    masking.save_masks(
        {**pruned, "head.bias": torch.zeros(3).bool()}, tmp_path / "more.safetensors"
    )
    code, out, _ = run(doctor, f"{asked} --masks {tmp_path}/more.safetensors --quiet")
    assert (code, "the masks prune head.bias as well: no layers, so applied" in out) == (0, True)
    back = run(doctor, f"{asked} --baseline {tmp_path}/part.safetensors --quiet")[1]
    assert "warning: 81 pruned weights of the baseline came back, in body, head" in back


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--checkpoint {0}/text.pt", "it is no file of torch.save, or cut short"),
        ("--checkpoint {0}/nothing.pt", "expected a state dict, tensors by name; got an empty one"),
        ("--masks {0}/foreign.safetensors", "cannot be read"),
        ("--masks {0}/nothing.safetensors", "are empty: expected one mask a layer"),
        ("--checkpoint {0}/zeros.pt --weights {0}/x.safetensors", "--weights or --checkpoint"),
        ("--checkpoint {0}/none.pt", "expected a file, there is none"),
        (
            "--masks {0}/zeros.pt",
            "suffix of .safetensors .'collapse masks .* takes them from a checkpoint",
        ),
        ("--masks {0}/other.safetensors", "masks '.*' are of another network"),
        ("--baseline {0}/other.safetensors", "are of another network"),
        ("--checkpoint {0}/code.pt", "holds pickled code"),
        ("--checkpoint {0}/cut.pt", "cannot be read"),
        ("--checkpoint {0}/integers.safetensors", "is of torch.int8: expected torch.float32"),
        ("--checkpoint {0}/sparse.pt", "is a sparse tensor"),
        ("--target 0.5", "expected a finite number from 1 up"),
        ("--pruner snip", "needs data and the doctor has none"),
        ("--pruner synflo", "nearest: synflow"),
        ("--tokens 0", "--tokens: expected at least 1, got 0"),
        ("--seed -1", "--seed: expected a number from 0"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_wrong_requests_are_one_line(run: Run, folder: Path, arguments: str, words: str) -> None:
    state = build("fc", input_shape=(3, 8, 8), classes=4).state_dict()
    first = next(iter(state))
    other = masking.dense(build("conv", input_shape=(3, 8, 8), classes=4))
    masking.save_masks(other, folder / "other.safetensors")
    torch.save(build("fc"), folder / "code.pt")
    (folder / "cut.pt").write_bytes((folder / "zeros.pt").read_bytes()[:2000])
    save_file({**state, first: state[first].to(torch.int8)}, folder / "integers.safetensors")
    torch.save({**state, first: state[first].to_sparse()}, folder / "sparse.pt")
    (folder / "text.pt").write_text("hello")
    torch.save({}, folder / "nothing.pt")
    save_file({}, folder / "nothing.safetensors")
    save_file(_masks(10), folder / "foreign.safetensors", {"collapse": "[1]"})
    before = sorted(folder.iterdir())
    table = folder / "table.csv"
    code, out, error = run(doctor, f"{SMALL} {arguments.format(folder)} --out {table}")
    assert (code, out, error.count("\n")) == (2, "", 1), error
    assert re.search(words, error), error
    assert sorted(folder.iterdir()) == before


# --- Masks ------------------------------------------------------------------------------------


def test_counts_of_masks_and_of_zeros_are_the_same(run: Run, folder: Path) -> None:
    code, out, _ = run(masks, f"{folder}/healthy.safetensors --table {folder}/t.csv")
    assert code == 0
    assert "59,600 parameters, 5,960 kept: compression 10" in out
    frame, _ = tables.read(folder / "t.csv", "masks")
    assert frame["kept"].sum() == 5960
    assert "5,960 kept" in run(masks, f"{folder}/zeros.pt")[1]
    out = run(masks, f"{folder}/collapsed.safetensors")[1]
    assert "empty in collapsed.safetensors: 1.weight" in out


def test_two_masks_beside_each_other_and_combined(run: Run, folder: Path) -> None:
    pair = f"{folder}/healthy.safetensors {folder}/collapsed.safetensors"
    first, second = _masks(10), _masks(5000, "magnitude")
    code, out, _ = run(masks, f"{pair} --table {folder}/o.json")
    both = masking.kept(masking.intersection(first, second))
    assert code == 0
    assert f"{both:,} weights are kept by both; chance would share" in out
    frame, _ = tables.read(folder / "o.json", "mask_overlap")
    assert frame["both"].sum() == both
    for how, combine in (
        ("union", masking.union),
        ("intersection", masking.intersection),
        ("difference", masking.difference),
    ):
        path = folder / f"{how}.safetensors"
        assert run(masks, f"{pair} --combine {how} --out {path}")[0] == 0
        loaded, expected = masking.load_masks(path), combine(first, second)
        assert all(torch.equal(loaded[name], mask) for name, mask in expected.items())


def test_conversions(run: Run, folder: Path) -> None:
    path, model = folder / "out.safetensors", build("fc", input_shape=(3, 8, 8), classes=4)
    healthy = masking.load_masks(folder / "healthy.safetensors")
    arguments = f"{folder}/zeros.pt --model fc {SHAPE} --out {path}"
    assert run(masks, arguments)[0] == 0
    loaded = masking.load_masks(path, model)
    assert all(torch.equal(loaded[name], mask) for name, mask in healthy.items())
    for option in ("zeros", "torch-prune"):
        arguments = f"{folder}/healthy.safetensors --model fc {SHAPE} --{option} {path}"
        code, out, _ = run(masks, arguments)
        assert code == 0
        assert "'healthy.safetensors' was made for these initial weights (seed 0)" in out
        again = masking.read_masks(path, model)
        assert all(torch.equal(again[name], mask) for name, mask in healthy.items())
    assert "1.weight_orig" in load_file(path)
    assert "NOT made for" in run(masks, f"{arguments} --seed 1")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("{0}/healthy.safetensors {0}/other.safetensors", "are of different networks"),
        ("{0}/healthy.safetensors --combine union", "expected two files or more, got one"),
        ("{0}/healthy.safetensors {0}/zeros.pt --out {0}/x.safetensors", "expected --combine"),
        ("{0}/a.pt {0}/b.pt {0}/c.pt", "expected one file, two, or --combine; got 3"),
        ("{0}/a.pt {0}/b.pt {0}/c.pt --combine difference", "difference: expected two files"),
        ("{0}/healthy.safetensors --model conv --input-shape 3 8 8", "of another network"),
        ("{0}/healthy.safetensors --model fcc", "unknown model 'fcc'"),
        ("{0}/healthy.safetensors --out {0}/x.pt", "expected a suffix of .safetensors"),
        ("{0}/none.safetensors", "expected a file, there is none"),
    ],
)
def test_wrong_requests_of_masks(run: Run, folder: Path, arguments: str, words: str) -> None:
    other = masking.dense(build("conv", input_shape=(3, 8, 8), classes=4))
    masking.save_masks(other, folder / "other.safetensors")
    before = sorted(folder.iterdir())
    code, out, error = run(masks, arguments.format(folder))
    assert (code, out, error.count("\n")) == (2, "", 1), error
    assert words in error
    assert sorted(folder.iterdir()) == before
