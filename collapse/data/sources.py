"""Where datasets come from: the embedded digits, drawn inputs, torchvision's downloads, and files.

``load`` returns every image as one uint8 tensor. Image folders (Tiny-ImageNet's zip too) and
parquet shards in the layout of the Hugging Face hub are decoded once (``image_files``).
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from collapse.data import image_files
from collapse.data.dataset import Dataset, Split, _hash
from collapse.data.given import Given
from collapse.errors import RequestError, first_line
from collapse.files import atomic
from collapse.models import call_user, import_user, parameters_of
from collapse.options import DATASETS, FRAMED, TOKENS, data_folder, unknown_dataset
from collapse.seeding import generator

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


# Mean and standard deviation as in the authors' experiments, so that accuracies compare.
_STATISTICS = {
    "mnist": ((0.1307,), (0.3081,)),
    "cifar10": ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
    "cifar100": ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276)),
    "tinyimagenet": ((0.480, 0.448, 0.397), (0.276, 0.269, 0.282)),
}


# Its names in torchvision.datasets.
_TORCHVISION = {"mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}


# Synthetic inputs, which depend on the seed.
DRAWN = ("gaussian", "sparse-gaussian")


_CLASSES = {"mnist": 10, "cifar10": 10, "cifar100": 100, "tinyimagenet": 200, "imagenet": 1000}


def load(
    name: str = "digits",
    split: Split = "train",
    *,
    root: Path | str | None = None,
    input_shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Load one split of a dataset.

    Args:
        name: one of ``DATASETS``, any name of a folder under ``root``, or
            ``package.module:function`` that returns a ``Dataset`` (called with ``split=``,
            ``seed=``, and ``input_shape=`` and ``classes=`` where asked for, if it takes them);
            ``framed-NAME`` puts its images at half their size into a frame of zeros, so that most
            inputs are dead.
        root: where data lies. For a dataset ``NAME`` it may hold torchvision's files, an image
            folder ``NAME/train/CLASS/*``, parquet shards ``NAME/train-*.parquet``, or
            Tiny-ImageNet's zip; a name that torchvision knows is downloaded there otherwise.
        input_shape: of gaussian inputs; images of a folder are resized to it.
        classes: of gaussian inputs.
        seed: of gaussian inputs.

    Raises:
        RequestError: unknown name, files missing, empty or truncated, a failed download, or a
            function that returns batches (``for_scoring``).

    Example:
        >>> data = load("gaussian", input_shape=(1, 8, 8), classes=3)
        >>> data.classes, tuple(data.images.shape[1:])
        (3, (1, 8, 8))
    """
    found = for_scoring(name, split, root=root, input_shape=input_shape, classes=classes, seed=seed)
    if isinstance(found, Given):
        raise RequestError(
            f"dataset '{name}' returns batches, which are for scoring only: expected a "
            "collapse.Dataset"
        )
    return found


def for_scoring(
    name: str,
    split: Split = "train",
    *,
    root: Path | str | None = None,
    input_shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    seed: int = 0,
) -> Dataset | Given:
    """``load``, which also takes a function that returns batches (``Given``)."""
    if name == TOKENS:
        raise RequestError(
            f"dataset '{TOKENS}': random tokens are for scoring a network of token ids only: "
            "expected images"
        )
    if input_shape is not None and min(input_shape, default=0) < 1:
        raise RequestError(f"input shape: expected positive sizes, got {input_shape}")
    if classes is not None and not (isinstance(classes, int) and classes >= 1):
        raise RequestError(f"classes: expected at least 1, got {classes!r}")
    if name.startswith(FRAMED):
        return _framed(load(name.removeprefix(FRAMED), split, root=root))
    if name == "digits":
        return _digits(split)
    if name in DRAWN:
        dense = _gaussian(split, input_shape, classes, seed)
        return dense if name == "gaussian" else _sparse(dense, seed)
    if ":" in name:
        return _users(name, split, seed=seed, input_shape=input_shape, classes=classes)
    return _images(name, split, data_folder(None if root is None else Path(root)), input_shape)


def _images(name: str, split: Split, root: Path, input_shape: tuple[int, ...] | None) -> Dataset:
    """Images that lie under ``root``, or that torchvision downloads there."""
    size = (input_shape[-2], input_shape[-1]) if input_shape and len(input_shape) >= 3 else None
    found, note = image_files.find(root, name, split, size), ""
    if found is not None:
        note = found.note
        images, labels, count = _cached(found)
    elif name in _TORCHVISION:
        images, labels, count = _download(name, split, root)
    elif (root / name).is_dir():
        raise RequestError(
            f"dataset '{name}' in '{root}' has no {split} split: expected {split}-*.parquet or "
            f"{split}/CLASS/IMAGE"
        )
    elif name not in DATASETS:
        raise unknown_dataset(name, root)
    else:
        raise RequestError(_missing(name, root))
    if not len(labels):
        raise RequestError(f"dataset '{name}' in '{root}' is empty: expected at least one image")
    mean, std = _STATISTICS.get(name, _IMAGENET)
    channels = images.shape[1]
    if len(mean) != channels:
        mean, std = (0.5,) * channels, (0.5,) * channels
    return Dataset(name, images, labels, max(count, _CLASSES.get(name, 0)), mean, std, note)


def _users(name: str, split: Split, **offered: Any) -> Dataset | Given:
    """What a user's function returns, held to what a ``Dataset`` says of itself."""
    function, what = import_user(name, "dataset"), f"dataset '{name}'"
    if callable(function) and "split" in parameters_of(function):
        function = partial(function, split=split)
    elif split == "test":
        raise RequestError(f"{what}: expected a function that takes split=, 'train' or 'test'")
    given = {option: value for option, value in offered.items() if value is not None}
    found = call_user(function, what, **given)
    if isinstance(found, Iterable) and not isinstance(found, Tensor | Mapping | str):
        return Given(name, list(found))
    if not isinstance(found, Dataset):
        raise RequestError(
            f"{what}: expected a collapse.Dataset, got {type(found).__name__} (or batches of "
            "(inputs, targets), to score on)"
        )
    labels = found.labels
    if labels.shape != found.images.shape[:1] or labels.dtype != torch.int64 or not len(labels):
        raise RequestError(
            f"{what}: expected int64 labels [n] of n images, n at least 1, got {labels.dtype} "
            f"{tuple(labels.shape)} of {len(found.images)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= found.classes:
        raise RequestError(
            f"{what}: expected labels from 0 to {found.classes - 1}, got {low} to {high}"
        )
    return replace(found, name=name)


def _digits(split: Split) -> Dataset:
    """scikit-learn's 1,797 digits of 8×8, resized to 3×32×32; every fifth one is for testing."""
    images, labels, mean, std = _resized_digits()
    held_out = torch.arange(len(images)) % 5 == 4
    part = held_out if split == "test" else ~held_out
    images = images[part].expand(-1, 3, -1, -1).contiguous()
    return Dataset("digits", images, labels[part], 10, (mean,) * 3, (std,) * 3)


@functools.cache  # a run asks for both splits, a sweep for many
def _resized_digits() -> tuple[Tensor, Tensor, float, float]:
    """Images [n, 1, 32, 32] of bytes, labels, and the training images' mean and deviation."""
    # Its file alone: importing sklearn.datasets takes almost as long as importing torch.
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(path), delimiter=",")  # 64 pixels from 0 to 16, and the digit
    small = torch.from_numpy(table[:, :64]).view(-1, 1, 8, 8).float() * (255 / 16)
    images = F.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    images = images.round().clamp(0, 255).to(torch.uint8)
    labels = torch.from_numpy(table[:, 64]).long()
    # Sums of bytes are exact: those of floats hang on the number of threads, and ten iterations of
    # a pruner that follows data turn their last digit into other layers that collapse.
    train = images[torch.arange(len(images)) % 5 != 4].long()
    mean = int(train.sum()) / train.numel()
    squares = 3 * (int(train.square().sum()) - train.numel() * mean**2)
    deviation = math.sqrt(squares / (3 * train.numel() - 1))  # of the three equal channels
    return images, labels, mean / 255, deviation / 255


def _gaussian(
    split: Split, input_shape: tuple[int, ...] | None, classes: int | None, seed: int
) -> Dataset:
    """Standard normal inputs with balanced labels."""
    shape, count = input_shape or (3, 32, 32), classes or 10
    draw = generator(seed, "gaussian", split)
    # 64 a class where that fits into a gibibyte of floats, fewer on large inputs.
    repeats = min(64, max(1, 2**28 // (count * math.prod(shape))))
    labels = torch.arange(count).repeat_interleave(repeats)
    images = torch.randn(len(labels), *shape, generator=draw)
    return Dataset("gaussian", images, labels, count, (0.0,) * shape[0], (1.0,) * shape[0])


def _sparse(dense: Dataset, seed: int) -> Dataset:
    """Gaussian inputs of which three in four are always zero, the others with a mean by class."""
    draw = generator(seed, "sparse gaussian")
    alive = torch.rand(dense.input_shape, generator=draw) < 0.25
    means = 0.1 * torch.randn(dense.classes, *dense.input_shape, generator=draw)
    images = (dense.images + means[dense.labels]) * alive
    return replace(dense, name="sparse-gaussian", images=images)


def _framed(dataset: Dataset) -> Dataset:
    """Normalised images at half their size in a frame of zeros: the same inputs are always dead."""
    height, width = dataset.input_shape[-2:]
    if len(dataset.input_shape) != 3 or min(height, width) < 2:
        raise RequestError(
            f"'{FRAMED}{dataset.name}' needs images C H W of 2×2 at least, got "
            f"{dataset.input_shape}"
        )
    small = torch.cat([  # in parts, because floats are four times as large as bytes
        F.avg_pool2d(dataset.inputs(slice(start, start + 1000)), 2)
        for start in range(0, len(dataset.labels), 1000)
    ])  # fmt: skip
    left, top = (width - small.shape[3]) // 2, (height - small.shape[2]) // 2
    images = torch.zeros(len(small), *dataset.input_shape)
    images[:, :, top : top + small.shape[2], left : left + small.shape[3]] = small
    plain = (0.0,) * len(dataset.mean), (1.0,) * len(dataset.std)
    return Dataset(
        FRAMED + dataset.name, images, dataset.labels, dataset.classes, mean=plain[0], std=plain[1]
    )


def _missing(name: str, root: Path) -> str:
    if name == "tinyimagenet":
        where = (
            f"download it with `curl -O http://cs231n.stanford.edu/tiny-imagenet-200.zip` into "
            f"'{root}'"
        )
    else:
        where = f"put an image folder with train/CLASS/*.JPEG at '{root / name}'"
    return f"dataset '{name}' not found in '{root}': {where}, or pass --data-root"


def _download(name: str, split: Split, root: Path) -> tuple[Tensor, Tensor, int]:
    """torchvision's own files under root, downloaded if they are not there."""
    from torchvision import datasets

    builder = getattr(datasets, _TORCHVISION[name])
    # Made for a download that may never come.
    new = [folder for folder in (root, root / builder.__name__) if not folder.exists()]
    try:
        try:
            source = builder(str(root), train=split == "train", download=False)
        except RuntimeError:  # torchvision's word for files that are not there
            source = builder(str(root), train=split == "train", download=True)
    except Exception as error:  # network, checksum and pickle errors have no common type
        for folder in reversed(new):
            _remove_empty(folder)
        raise RequestError(
            f"dataset '{name}' is not in '{root}' and cannot be downloaded "
            f"({first_line(error)}); where there is a network, run "
            f'`python -c "import torchvision; torchvision.datasets.{builder.__name__}'
            f"('{root}', download=True)\"` and copy the folder, or pass --data-root"
        ) from error
    images = torch.as_tensor(source.data)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    labels = torch.as_tensor(source.targets)
    return images, labels.long(), _CLASSES[name]


def _remove_empty(folder: Path) -> None:
    """What holds no files, and the folder too if that is all of it."""
    for path in [*sorted(folder.rglob("*"), reverse=True), folder]:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def cache_folder() -> Path:
    """Where decoded images are kept: ``$COLLAPSE_CACHE`` or ``~/.cache/layer-collapse``."""
    base = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    return Path(os.environ.get("COLLAPSE_CACHE", str(Path(base) / "layer-collapse")))


def _cached(source: image_files.Source) -> tuple[Tensor, Tensor, int]:
    """Decoded images of a source, from the cache if it holds them whole and unchanged."""
    path = cache_folder() / f"{source.fingerprint}.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
            metadata = json.loads(file.metadata()["collapse"])
        if metadata["hash"] == _hash(images, labels):
            return images, labels, metadata["classes"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        pass  # not there, cut short or foreign: decode again and replace it
    images, labels, classes = source.decode()
    metadata = {"collapse": json.dumps({"hash": _hash(images, labels), "classes": classes})}
    try:
        with atomic(path) as temporary:
            temporary.write_bytes(save({"images": images, "labels": labels}, metadata))
    except RequestError:
        pass  # a read-only or full cache costs time, not the result
    return images, labels, classes
