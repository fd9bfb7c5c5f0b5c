"""`--dataset package.module:function`: what a function may take, and what it must return."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from collapse import data
from collapse.commands import critical, train
from collapse.errors import RequestError
from collapse.models import build
from tests.conftest import Run

MODULE = """
import torch
from collapse import Dataset

def points(split, seed=0, input_shape=None, classes=3):
    shape = input_shape or (6,)
    draw = torch.Generator().manual_seed(seed + 100 * (split == "test"))
    labels = torch.arange(12 * classes) % classes
    means = torch.eye(shape[-1])[:classes]
    images = 0.1 * torch.randn(len(labels), *shape, generator=draw) + means[labels]
    return Dataset("points", images, labels, classes, (0.0,), (1.0,))

def one(): return points("train")
def a_dict(split): return {"images": 1}
def raises(split): raise KeyError("no such file")
def made(images, labels, classes): return Dataset("made", images, labels, classes, (0.0,), (1.0,))
def short(): return made(torch.zeros(3, 6), torch.zeros(2, dtype=torch.long), 1)
def floats(): return made(torch.zeros(3, 6), torch.zeros(3), 1)
def beyond(): return made(torch.zeros(3, 6), torch.tensor([0, 1, 2]), 2)
number = 3
"""


def test_a_function_gets_what_its_signature_takes(module_named) -> None:
    module_named("mine", MODULE)
    first = data.load("mine:points", seed=3, input_shape=(8,), classes=4)
    assert (first.name, first.input_shape, first.classes) == ("mine:points", (8,), 4)
    again = data.load("mine:points", seed=3, input_shape=(8,), classes=4)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(
        first.images, data.load("mine:points", input_shape=(8,), classes=4).images
    )
    test = data.load("mine:points", "test", seed=3, input_shape=(8,), classes=4)
    assert not torch.equal(first.images, test.images)
    assert data.load("mine:one").input_shape == (6,)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("mine:a_dict", "train", "expected a collapse.Dataset, got dict"),
        ("mine:raises", "train", "calling it failed with KeyError: 'no such file'"),
        ("mine:number", "train", "expected a callable, got int"),
        ("mine:pionts", "train", "unknown dataset in 'mine' 'pionts'; nearest: points"),
        ("mine:one", "test", r"expected a function that takes split=, 'train' or 'test'"),
        ("mine:short", "train", r"expected int64 labels \[n\] of n images.* \(2,\) of 3"),
        ("mine:floats", "train", r"got torch.float32 \(3,\) of 3"),
        ("mine:beyond", "train", "expected labels from 0 to 1, got 0 to 2"),
        ("nobodys:points", "train", "importing 'nobodys' failed with ModuleNotFoundError"),
    ],
)
def test_what_is_no_dataset_is_one_line(module_named, name: str, split, message: str) -> None:
    module_named("mine", MODULE)
    with pytest.raises(RequestError, match=message):
        data.load(name, split)


def test_commands_take_it(run: Run, module_named, tmp_path) -> None:
    module_named("mine", MODULE)
    line = "--model fc --dataset mine:points --quiet"
    code, out, err = run(critical, f"{line} --pruners magnitude snip --samples-per-class 2")
    assert (code, err) == (0, "")
    assert "fc on mine:points 6:" in out
    code, out, err = run(train, f"{line} --epochs 1 --augmentation none --runs {tmp_path / 'runs'}")
    assert (code, err) == (0, "")


def test_options_of_another_type_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="unknown dataset 'mine'"):
        data.load("mine", root=str(tmp_path))
    with pytest.raises(RequestError, match="classes: expected at least 1, got '10'"):
        data.load("gaussian", classes="10")
    with pytest.raises(RequestError, match="classes: expected at least 1, got '10'"):
        build("fc", classes="10")


def test_batches_are_scored_as_they_are(module_named) -> None:
    module_named(
        "my_batches",
        "import torch\n"
        "x = torch.randn(4, 6)\n"
        "def classes(): return [((x, x), torch.tensor([0, 4, 1, 1])), (x, torch.zeros(4).long())]\n"
        "def real(): return [({'x': x}, torch.randn(4, 3))]\n"
        "def nested(): return ((x, {'a': x}) for _ in range(2))\n",
    )
    found = data.for_scoring("my_batches:classes")
    assert (found.input_shape, found.classes, len(found.batches)) == ((6,), 5, 2)
    inputs, targets = found.one()[0]
    assert [part.shape for part in inputs] == [(1, 6), (1, 6)]
    assert targets.tolist() == [0]
    assert data.for_scoring("my_batches:real").classes == 3
    nested = data.for_scoring("my_batches:nested")
    assert (nested.classes, len(nested.batches)) == (1, 2)
    with pytest.raises(RequestError, match="returns batches, which are for scoring only"):
        data.load("my_batches:classes")
