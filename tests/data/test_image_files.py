"""Image files: parquet shards, folders and zips, whole, in part and damaged."""

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

from collapse import data
from collapse.errors import RequestError
from collapse.models import build
from collapse.options import Execution, Setup, Training
from collapse.problem import prepare
from collapse.runs import Experiment, perform
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
    test = data.load("mine", "test", root=tmp_path)
    assert test.images[0, 0, 0, 0] == 9
    assert (train.note, test.note) == ("", "")


def test_missing_shards_are_said(tmp_path: Path) -> None:
    setup = Setup("fc", "mine", data_root=tmp_path, device="cpu", samples_per_class=1)
    for number in (0, 2):
        _shard(tmp_path / "mine" / f"train-0000{number}-of-00004.parquet", [1, 2, 3])
    _shard(tmp_path / "mine" / "test-00000-of-00001.parquet", [1, 2, 3])
    said = f"'mine' is not whole: 2 of 4 files of its train split are in '{tmp_path / 'mine'}'"
    assert data.load("mine", root=tmp_path).note == said
    assert said in prepare(setup, 0, labelled=True).notes
    assert said not in prepare(setup, 0, labelled=False).notes  # no score follows these
    short = Training(epochs=1, train_batch_size=3)
    run = perform(Experiment(setup, training=short), Execution(runs=tmp_path / "runs", quiet=True))
    assert run.notes() == [said]


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
