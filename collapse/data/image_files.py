"""Find image files under a folder and decode them to one uint8 tensor.

Layouts: parquet shards as on the Hugging Face hub, image folders, Tiny-ImageNet's folder or zip.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from collapse.errors import RequestError, first_line

Size = tuple[int, int] | None


Encoded = tuple[Callable[[], bytes], int]


_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}


_TINY = "tiny-imagenet-200"


# How the hub names one of several shards: train-00001-of-00004.parquet.
_OF_SHARDS = re.compile(r"-(\d+)-of-(\d+)$")


@dataclass(frozen=True)
class Source:
    """Image files of one split, not yet read.

    Attributes:
        name: of the dataset, for messages.
        split: train or test; both may lie in the same files.
        files: what the fingerprint covers.
        size: (height, width) to resize to; None keeps the images' own, which must then agree.
        read: gives the encoded images with their labels, and the number of classes.
        classes: their names, where folders have them; another list gives other labels.
        note: what is not there, in words; empty if nothing is known to be missing.
    """

    name: str
    split: str
    files: tuple[Path, ...]
    size: Size
    read: Callable[[], tuple[Iterator[Encoded], int]]
    classes: tuple[str, ...] = ()
    note: str = ""

    @property
    def fingerprint(self) -> str:
        """Changes with any file's path, size or time of change, and with the size asked for."""
        digest = hashlib.blake2b(digest_size=16)
        for path in self.files:
            status = path.stat()
            line = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0"
            digest.update(line.encode())
        digest.update(f"{self.name}\0{self.split}\0{self.size}\0{self.classes}".encode())
        return digest.hexdigest()

    def decode(self) -> tuple[Tensor, Tensor, int]:
        """Images ``[n, C, H, W]`` in uint8, labels ``[n]`` in int64, number of classes.

        Raises:
            RequestError: a file is missing, truncated or no image, or sizes differ.
        """
        try:
            encoded, classes = self.read()
            images, labels = [], []
            # PIL releases the interpreter's lock while it decodes.
            with ThreadPoolExecutor() as pool:
                for image, label in pool.map(self._image, encoded, itertools.count()):
                    images.append(image)
                    labels.append(label)
        except (OSError, pa.ArrowException, zipfile.BadZipFile, KeyError) as error:
            raise RequestError(
                f"dataset '{self.name}' cannot be read ({first_line(error)}): "
                f"expected whole files under '{self.files[0].parent}'"
            ) from error
        if not images:
            raise RequestError(f"dataset '{self.name}' is empty: no image in '{self.files[0]}'")
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise RequestError(
                f"images of '{self.name}' differ in size (e.g. {sorted(shapes)[:2]}): "
                "expected one size; pass --input-shape C H W to resize them"
            )
        return (
            torch.from_numpy(np.ascontiguousarray(np.stack(images))),
            torch.tensor(labels),
            classes,
        )

    def _image(self, encoded: Encoded, number: int) -> tuple[np.ndarray, int]:
        read, label = encoded
        try:
            image = Image.open(io.BytesIO(read())).convert("RGB")
        except UnidentifiedImageError as error:
            raise RequestError(
                f"dataset '{self.name}' holds a file that is no image: {self._place(number)}"
            ) from error
        except OSError as error:
            raise RequestError(
                f"dataset '{self.name}' cannot be read ({first_line(error)}): expected a whole "
                f"image as {self._place(number)}"
            ) from error
        if self.size is not None and image.size != self.size[::-1]:
            image = image.resize(self.size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(image).transpose(2, 0, 1), label

    def _place(self, number: int) -> str:
        """Where an image lies, by its number in the split."""
        if number < len(self.files) and self.files[number].suffix.lower() in _SUFFIXES:
            return f"'{self.files[number]}'"
        return f"row {number} of the split '{self.split}', counted from 0"


def folders(root: Path) -> list[str]:
    """Names of folders under root, which may be datasets."""
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def find(root: Path, name: str, split: str, size: Size) -> Source | None:
    """The image files of a dataset's split under root; None if there are none.

    ``root`` may be the folder that holds ``name``, or that folder itself.
    """
    bases = [base for base in (root / name, root) if base.is_dir()]
    if name == "tinyimagenet":
        for base in bases:
            if (source := _tiny_imagenet(base, split, size)) is not None:
                return source
    for base in bases:
        shards = tuple(sorted(base.glob(f"{split}-*.parquet")))
        if not shards and (base / "data").is_dir():
            shards = tuple(sorted((base / "data").glob(f"{split}-*.parquet")))
        if shards:
            read, note = partial(_read_parquet, shards), _missing(name, split, shards)
            return Source(name, split, shards, size, read, note=note)
        for folder in (base / split, *([base / "val"] if split == "test" else [])):
            if folder.is_dir():
                return _image_folder(name, split, folder, size, base / "train")
    return None


def _missing(name: str, split: str, shards: tuple[Path, ...]) -> str:
    """A word on shards that the others' names speak of and that are not there."""
    matches = [_OF_SHARDS.search(shard.stem) for shard in shards]
    there = {int(match[1]) for match in matches if match}
    expected = max((int(match[2]) for match in matches if match), default=0)
    if missing := sorted(set(range(expected)) - there):
        return (
            f"'{name}' is not whole: {expected - len(missing)} of {expected} files of its {split} "
            f"split are in '{shards[0].parent}'"
        )
    return ""


def _image_folder(name: str, split: str, folder: Path, size: Size, train: Path) -> Source:
    """``folder/CLASS/image``; the training split's classes are numbered in alphabetical order."""
    found = folders(folder)
    classes = folders(train) or found
    if unknown_classes := sorted(set(found) - set(classes)):
        raise RequestError(
            f"dataset '{name}': '{folder}' has the class '{unknown_classes[0]}': expected those of "
            f"'{train}'"
        )
    files = [
        (path, label)
        for label, class_name in enumerate(classes)
        for path in sorted((folder / class_name).rglob("*"))
        if path.suffix.lower() in _SUFFIXES
    ]
    if not files:
        raise RequestError(f"dataset '{name}' is empty: no image in '{folder}/CLASS/'")

    def read() -> tuple[Iterator[Encoded], int]:
        return ((path.read_bytes, label) for path, label in files), len(classes)

    paths = tuple(path for path, _ in files)
    return Source(name, split, paths, size, read, tuple(classes))


def _read_parquet(shards: tuple[Path, ...]) -> tuple[Iterator[Encoded], int]:
    """Shards with a struct column of encoded images and an integer column of labels."""
    schema = pq.read_schema(shards[0])
    image = next((n for n in ("image", "img") if n in schema.names), None)
    label = next((n for n in ("label", "fine_label", "labels") if n in schema.names), None)
    if image is None or label is None:
        raise RequestError(
            f"'{shards[0]}': expected columns image and label, got {', '.join(schema.names)}"
        )
    tables = [pq.read_table(shard, columns=[image, label]) for shard in shards]
    for table in tables:
        if not pa.types.is_integer(table[label].type) or table[label].null_count:
            raise RequestError(f"'{shards[0]}': expected integer labels without gaps in '{label}'")
        if not pa.types.is_struct(table[image].type) or "bytes" not in _fields(table[image].type):
            raise RequestError(
                f"'{shards[0]}': expected a struct with a field bytes in the column '{image}', got "
                f"{table[image].type}"
            )
        if table[image].null_count:
            raise RequestError(f"'{shards[0]}': expected an image in every row of '{image}'")
    labels = np.concatenate([table[label].to_numpy() for table in tables])
    if len(labels) and labels.min() < 0:
        raise RequestError(f"'{shards[0]}': expected labels from 0, got {labels.min()}")

    def encoded() -> Iterator[Encoded]:
        position = 0
        for table in tables:
            for chunk in table[image].chunks:
                for cell in chunk.field("bytes"):
                    yield cell.as_py, int(labels[position])
                    position += 1

    return encoded(), max(_class_count(schema, label), int(labels.max(initial=-1)) + 1)


def _fields(struct: pa.StructType) -> list[str]:
    return [field.name for field in struct]


def _class_count(schema: pa.Schema, label: str) -> int:
    """From the schema's metadata, where the hub's features or a list of names may stand."""
    metadata = schema.metadata or {}
    if b"classes" in metadata:
        return len(metadata[b"classes"].decode().split("\n"))
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return len(features.get(label, {}).get("names", []))


def _tiny_imagenet(base: Path, split: str, size: Size) -> Source | None:
    """The original layout, unpacked or still in its zip; the validation part is for testing."""
    archive = next(iter(sorted(base.glob(f"{_TINY}*.zip"))), None)
    folder = base / _TINY if (base / _TINY).is_dir() else base
    if archive is None and not (folder / "wnids.txt").is_file():
        return None

    def read() -> tuple[Iterator[Encoded], int]:
        if archive is None:
            names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.JPEG"))]
            return _tiny_entries(names, lambda name: (folder / name).read_bytes(), split)
        data = {}
        with zipfile.ZipFile(archive) as file:
            for name in file.namelist():
                if name.endswith((".JPEG", "wnids.txt", "val_annotations.txt")):
                    data[name.removeprefix(f"{_TINY}/")] = file.read(name)
        return _tiny_entries(sorted(data), data.__getitem__, split)

    return Source("tinyimagenet", split, (archive or folder / "wnids.txt",), size, read)


def _tiny_entries(
    names: list[str], read: Callable[[str], bytes], split: str
) -> tuple[Iterator[Encoded], int]:
    wnids = {wnid: i for i, wnid in enumerate(sorted(read("wnids.txt").decode().split()))}
    images = [name for name in names if name.endswith(".JPEG")]
    if split == "train":
        labelled = [(n, wnids[n.split("/")[1]]) for n in images if n.startswith("train/")]
    else:
        lines = read("val/val_annotations.txt").decode().splitlines()
        of = {line.split("\t")[0]: wnids[line.split("\t")[1]] for line in lines}
        labelled = [(n, of[n.split("/")[-1]]) for n in images if n.startswith("val/")]
    return ((partial(read, name), label) for name, label in labelled), len(wnids)
