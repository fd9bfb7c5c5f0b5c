"""Datasets: the embedded and drawn ones, sampling, and what is not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from collapse import data
from collapse.data import Dataset, sources
from collapse.errors import RequestError

# --- Sources ----------------------------------------------------------------------------------


def test_framed_images_are_half_as_large_in_a_frame_of_zeros() -> None:
    plain, framed = data.load("digits"), data.load("framed-digits")
    assert framed.input_shape == plain.input_shape == (3, 32, 32)
    inputs = framed.inputs(slice(0, 50))
    inside = plain.inputs(slice(0, 50)).reshape(50, 3, 16, 2, 16, 2).mean((3, 5))
    torch.testing.assert_close(inputs[:, :, 8:24, 8:24], inside)
    frame = inputs.clone()
    frame[:, :, 8:24, 8:24] = 0
    assert not frame.any()
    assert framed.name == "framed-digits"
    assert framed.labels.equal(plain.labels)
    with pytest.raises(RequestError, match="unknown dataset 'digit'"):
        data.load("framed-digit", root=Path("none"))
    with pytest.raises(RequestError, match=r"'framed-gaussian' needs images .* got \(3, 1, 32\)"):
        sources._framed(data.load("gaussian", input_shape=(3, 1, 32)))


def test_sparse_gaussian_inputs_are_alive_in_the_same_quarter_and_tell_classes_apart() -> None:
    train, test = (data.load("sparse-gaussian", split, seed=3) for split in ("train", "test"))
    alive = train.images.ne(0).any(0)
    assert alive.equal(test.images.ne(0).any(0))
    assert float(alive.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert not alive.equal(data.load("sparse-gaussian", seed=4).images.ne(0).any(0))
    means = torch.stack([train.images[train.labels == k].mean(0) for k in range(10)])
    nearest = (test.images.flatten(1) @ means.flatten(1).T).argmax(1)
    assert float((nearest == test.labels).float().mean()) > 0.5


def test_digits_need_no_files() -> None:
    train, test = data.load("digits"), data.load("digits", "test")
    assert train.input_shape == (3, 32, 32)
    assert (len(train.labels), len(test.labels), train.classes) == (1438, 359, 10)
    theirs = load_digits()  # ours are read from their file
    assert test.labels.tolist() == theirs.target[4::5].tolist()
    small = torch.from_numpy(theirs.images[4::5]).float()[:, None] * (255 / 16)
    large = torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear")
    assert torch.equal(test.images[:, :1], large.round().to(torch.uint8))
    inputs = train.inputs()
    assert float(inputs.mean()) == pytest.approx(0, abs=1e-3)
    assert float(inputs.std()) == pytest.approx(1, abs=1e-3)


def test_digits_are_the_same_with_any_number_of_threads() -> None:
    """FORCE on ResNet-50/8 kept its layers up to 36 with two, and up to 21 with one."""
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            sources._resized_digits.cache_clear()
            (images, _), *_ = data.load("digits").score_batches(2)
            found.append(images)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    train = data.load("digits").images.double() / 255
    assert data.load("digits").mean[0] == pytest.approx(float(train.mean()), rel=1e-14)
    assert data.load("digits").std[0] == pytest.approx(float(train.std()), rel=1e-10)


def test_gaussian_of_any_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = data.load("gaussian", input_shape=(2, 7), classes=5)
    assert noise.input_shape == (2, 7)
    assert noise.labels.bincount().tolist() == [64] * 5
    assert torch.equal(noise.inputs(), noise.images)
    again = data.load("gaussian", input_shape=(2, 7), classes=5)
    other = data.load("gaussian", input_shape=(2, 7), classes=5, seed=1)
    assert torch.equal(again.images, noise.images)
    assert not torch.equal(other.images, noise.images)
    # Without drawing 150 million numbers.
    monkeypatch.setattr(torch, "randn", lambda *shape, generator: torch.zeros(1).expand(shape))
    large = data.load("gaussian", input_shape=(3, 224, 224), classes=1000)
    assert len(large.labels) == 1000
    with pytest.raises(RequestError, match="expected positive sizes"):
        data.load("gaussian", input_shape=(3, 0))
    with pytest.raises(RequestError, match="classes: expected at least 1, got 0"):
        data.load("gaussian", classes=0)


def test_torchvision_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Files:
        """torchvision's datasets as the loader uses them."""

        def __init__(self, root: str, train: bool, download: bool) -> None:
            if not download:
                raise RuntimeError("Dataset not found")
            self.data = np.full((2, 32, 32, 3), 7, np.uint8)
            self.targets = [3, 4]

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Files)
    cifar = data.load("cifar10", root=tmp_path)
    assert cifar.images.shape == (2, 3, 32, 32)
    assert cifar.labels.tolist() == [3, 4]


# --- Cache ------------------------------------------------------------------------------------


# --- Sampling ---------------------------------------------------------------------------------


def test_score_batches_hold_equally_many_of_each_class() -> None:
    digits = data.load("digits")
    batches = digits.score_batches(10, batch_size=33, seed=1)
    assert [len(y) for _, y in batches] == [33, 33, 34]  # no batch of one sample
    labels = torch.cat([y for _, y in batches])
    assert labels.bincount().tolist() == [10] * 10
    again = digits.score_batches(10, batch_size=33, seed=1)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(batches, again, strict=True))
    other = digits.score_batches(10, batch_size=33, seed=2)
    assert not torch.equal(other[0][0], batches[0][0])


def test_wrong_samples() -> None:
    digits = data.load("digits")
    with pytest.raises(RequestError, match="samples per class: expected at least 1, got 0"):
        digits.score_batches(0)
    with pytest.raises(RequestError, match=r"has \d+ examples of class 0: expected at least 500"):
        digits.score_batches(500)
    with pytest.raises(RequestError, match="batch size: expected at least 1, got 0"):
        digits.score_batches(1, batch_size=0)


# --- Wrong files ------------------------------------------------------------------------------


def test_unknown_and_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="unknown dataset 'digit'; nearest: digits"):
        data.load("digit", root=tmp_path)
    with pytest.raises(RequestError, match="'tinyimagenet' not found in .*curl -O .*--data-root"):
        data.load("tinyimagenet", root=tmp_path)
    with pytest.raises(RequestError, match="'imagenet' not found in .*image folder"):
        data.load("imagenet", root=tmp_path)

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", no_network)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", no_network)
    with pytest.raises(
        RequestError, match=r"cannot be downloaded .*no route.*CIFAR10\('.*load=True"
    ):
        data.load("cifar10", root=tmp_path)
    for root in (tmp_path, tmp_path / "new"):  # nothing is left of a download that never came
        with pytest.raises(RequestError, match="'mnist' is not in .* cannot be downloaded"):
            data.load("mnist", root=root)
    assert not list(tmp_path.iterdir())


# --- The real images --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split", "count", "classes"),
    [
        pytest.param("cifar10", "test", 10_000, 10, marks=pytest.mark.slow),
        ("cifar100", "test", 10_000, 100),
        ("tinyimagenet", "train", 2_000, 200),
        ("tinyimagenet", "test", 1_000, 200),
    ],
)
def test_real_images(shared_data: Path, name: str, split, count: int, classes: int) -> None:
    images = data.load(name, split, root=shared_data)
    assert len(images.labels) == count
    assert images.classes == classes
    assert images.labels.bincount().tolist() == [count // classes] * classes
    # The authors' channel statistics fit, so these are the images that they mean.
    sample = images.inputs(slice(0, 1000))
    assert sample.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=0.07)
    assert float(sample.std()) == pytest.approx(1, abs=0.07)


def test_large_inputs_are_scored_on_few_samples_unless_asked() -> None:
    """Ten images of each of ImageNet's classes are hours; the paper's sizes stay as they are."""
    large = data.load("gaussian", input_shape=(1, 65, 64), classes=20)
    paper = data.load("gaussian", input_shape=(1, 64, 64), classes=20)
    few = data.load("gaussian", input_shape=(1, 65, 64), classes=10)

    def count(*args: int | None, of: Dataset = large, **kwargs: int) -> int:
        return sum(len(labels) for _, labels in of.score_batches(*args, **kwargs))

    assert count() == count(None) == 100
    assert count(10) == 200
    assert count(samples=7) == 7
    assert count(of=paper) == 200
    assert count(of=few) == 100
    assert (large.bounded, paper.bounded, few.bounded) == (True, False, False)
