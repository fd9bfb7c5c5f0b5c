"""Datasets: layouts, the cache, sampling, and every way in which files can be wrong."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from collapse import data
from collapse.data import Dataset, sources
from collapse.errors import RequestError
from collapse.models import build
from collapse.train import train


def _png(value: int, size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _shard(path: Path, values: list[int], metadata: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": _png(value), "path": None} for value in values]
    labels = pa.array([value % 3 for value in values], pa.int64())
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, struct), "label": labels})
    pq.write_table(table.replace_schema_metadata(metadata), path)


def _folder(root: Path, sizes: tuple[int, ...] = (8, 8)) -> None:
    for split in ("train", "val"):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for index, size in enumerate(sizes):
                (root / split / name / f"{index}.png").write_bytes(_png(10 * label + index, size))


def _tiny_zip(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        base = "tiny-imagenet-200"
        file.writestr(f"{base}/wnids.txt", "n02\nn01\n")
        file.writestr(f"{base}/train/n01/images/n01_0.JPEG", _png(1))
        file.writestr(f"{base}/train/n02/images/n02_0.JPEG", _png(2))
        file.writestr(f"{base}/val/images/val_0.JPEG", _png(3))
        file.writestr(f"{base}/val/val_annotations.txt", "val_0.JPEG\tn02\t0\t0\t1\t1\n")


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


@pytest.mark.parametrize("inside", [True, False])
def test_parquet_shards_in_order(tmp_path: Path, inside: bool) -> None:
    base = tmp_path / "mine" if inside else tmp_path
    _shard(base / "train-00000-of-00002.parquet", [1, 2], {"classes": "a\nb\nc\nd"})
    _shard(base / "train-00001-of-00002.parquet", [6], {"classes": "a\nb\nc\nd"})
    _shard(base / "test-00000-of-00001.parquet", [9])
    train = data.load("mine", root=tmp_path)
    assert train.images[:, 0, 0, 0].tolist() == [1, 2, 6]
    assert train.labels.tolist() == [1, 2, 0]
    assert train.classes == 4
    assert data.load("mine", "test", root=tmp_path).images[0, 0, 0, 0] == 9


def test_class_count_from_the_hubs_features(tmp_path: Path) -> None:
    features = {"label": {"names": list("abcdefg"), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    _shard(tmp_path / "mine" / "data" / "train-00000-of-00001.parquet", [1], metadata)
    assert data.load("mine", root=tmp_path).classes == 7


def test_image_folders(tmp_path: Path) -> None:
    _folder(tmp_path / "pets")
    pets = data.load("pets", "test", root=tmp_path)  # its val
    assert pets.images.shape == (4, 3, 8, 8)
    assert pets.labels.tolist() == [0, 0, 1, 1]
    small = data.load("pets", root=tmp_path, input_shape=(3, 4, 6))
    assert small.images.shape == (4, 3, 4, 6)


@pytest.mark.parametrize("unpacked", [False, True])
def test_tiny_imagenet_zip_and_folder(tmp_path: Path, unpacked: bool) -> None:
    archive = tmp_path / "tinyimagenet" / "tiny-imagenet-200.zip"
    _tiny_zip(archive)
    if unpacked:
        with zipfile.ZipFile(archive) as file:
            file.extractall(archive.parent)
        archive.unlink()
    train = data.load("tinyimagenet", root=tmp_path)
    assert train.images[:, 0, 0, 0].tolist() == [1, 2]
    assert train.labels.tolist() == [0, 1]  # in alphabetical order of the identifiers
    assert train.classes == 200
    test = data.load("tinyimagenet", "test", root=tmp_path)
    assert (test.images[0, 0, 0, 0], test.labels.tolist()) == (3, [1])


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


def test_cache_is_used_checked_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLAPSE_CACHE", str(tmp_path / "cache"))
    _folder(tmp_path / "pets")
    first = data.load("pets", root=tmp_path)
    (cached,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(
        "collapse.data.image_files.Source.decode", lambda self: pytest.fail("decoded")
    )
    assert torch.equal(data.load("pets", root=tmp_path).images, first.images)
    monkeypatch.undo()
    monkeypatch.setenv("COLLAPSE_CACHE", str(tmp_path / "cache"))
    whole = cached.read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1  # one pixel or label wrong, the file otherwise well formed
    for damage in (whole[:50], whole[:-3], bytes(flipped), b""):
        cached.write_bytes(damage)
        assert torch.equal(data.load("pets", root=tmp_path).images, first.images)
        assert cached.read_bytes() == whole
    (tmp_path / "pets/train/cat/0.png").write_bytes(_png(99))
    assert data.load("pets", root=tmp_path).images[0, 0, 0, 0] == 99  # a changed source


def test_an_unwritable_cache_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COLLAPSE_CACHE", str(tmp_path / "file" / "cache"))
    _folder(tmp_path / "pets")
    assert len(data.load("pets", root=tmp_path).labels) == 4


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


def test_damaged_files(tmp_path: Path) -> None:
    shard = tmp_path / "mine" / "train-00000-of-00001.parquet"
    _shard(shard, list(range(9)))
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(RequestError, match="dataset 'mine' cannot be read .*expected whole files"):
        data.load("mine", root=tmp_path)
    shard.write_bytes(b"")
    with pytest.raises(RequestError, match="dataset 'mine' cannot be read"):
        data.load("mine", root=tmp_path)
    pq.write_table(pa.table({"picture": [1]}), shard)
    with pytest.raises(RequestError, match="expected columns image and label, got picture"):
        data.load("mine", root=tmp_path)
    pq.write_table(pa.table({"img": [1], "label": [0]}), shard)
    with pytest.raises(RequestError, match="a field bytes in the column 'img', got int64"):
        data.load("mine", root=tmp_path)
    pq.write_table(pa.table({"img": [{"bytes": b"?"}], "label": [0]}), shard)
    with pytest.raises(RequestError, match="no image: row 0 of the split 'train'"):
        data.load("mine", root=tmp_path)
    for labels in (["a", "b"], [0, None], [-1, -1]):
        _shard(shard, [1, 2])
        table = pq.read_table(shard)
        pq.write_table(table.set_column(1, "label", pa.array(labels)), shard)
        with pytest.raises(RequestError, match="expected (integer labels|labels from 0)"):
            data.load("mine", root=tmp_path)
    with pytest.raises(RequestError, match="'mine' in '.*' has no test split: expected test-"):
        data.load("mine", "test", root=tmp_path)
    _shard(shard, [])
    with pytest.raises(RequestError, match="dataset 'mine' is empty"):
        data.load("mine", root=tmp_path)


def test_damaged_images(tmp_path: Path) -> None:
    _folder(tmp_path / "pets")
    image = tmp_path / "pets/train/cat/0.png"
    image.write_bytes(image.read_bytes()[:40])
    with pytest.raises(RequestError, match=r"dataset 'pets' .* '.*/train/cat/0\.png'"):
        data.load("pets", root=tmp_path)
    image.write_text("not an image")
    with pytest.raises(RequestError, match=r"'pets' holds a file that is no image: '.*/0\.png'"):
        data.load("pets", root=tmp_path)
    (tmp_path / "empty" / "train" / "cat").mkdir(parents=True)
    with pytest.raises(RequestError, match="dataset 'empty' is empty: no image"):
        data.load("empty", root=tmp_path)
    _folder(tmp_path / "mixed", sizes=(8, 9))
    with pytest.raises(RequestError, match="differ in size .*--input-shape C H W"):
        data.load("mixed", root=tmp_path)
    archive = tmp_path / "tinyimagenet" / "tiny-imagenet-200.zip"
    _tiny_zip(archive)
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(RequestError, match="'tinyimagenet' cannot be read"):
        data.load("tinyimagenet", root=tmp_path)


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


def _shades(folder: Path, labels: str, size: int = 4) -> None:
    for label in labels:
        (folder / label).mkdir(parents=True)
        Image.new("RGB", (size, size), (ord(label), 0, 0)).save(folder / label / "x.png")


def test_a_test_split_has_the_training_splits_classes(tmp_path: Path) -> None:
    _shades(tmp_path / "mine" / "train", "abc")
    _shades(tmp_path / "mine" / "test", "ac")
    test = data.load("mine", "test", root=tmp_path)
    assert test.labels.tolist() == [0, 2]
    assert test.classes == 3
    _shades(tmp_path / "mine" / "train", "B")  # sorts first: every label moves
    assert data.load("mine", "test", root=tmp_path).labels.tolist() == [1, 3]
    _shades(tmp_path / "mine" / "test", "d")
    with pytest.raises(RequestError, match="has the class 'd': expected those of"):
        data.load("mine", "test", root=tmp_path)


def test_splits_of_different_sizes_are_not_trained_on(tmp_path: Path) -> None:
    _shades(tmp_path / "mine" / "train", "ab", 8)
    _shades(tmp_path / "mine" / "test", "ab", 4)
    train_split = data.load("mine", "train", root=tmp_path)
    test_split = data.load("mine", "test", root=tmp_path)
    with pytest.raises(RequestError, match=r"inputs of shape \(3, 4, 4\): expected the t"):
        train(build("fc", input_shape=(3, 8, 8), classes=2), train_split, test_split)


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
