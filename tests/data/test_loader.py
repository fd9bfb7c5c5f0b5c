"""Batches on the device against the authors' pipeline: PIL images, torchvision's transforms."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as pil

from collapse.data import PADDING, Dataset, Feed, load
from collapse.errors import RequestError
from collapse.seeding import generator


def _images(count: int = 23, channels: int = 3, height: int = 6, width: int = 9) -> Dataset:
    draw = torch.Generator().manual_seed(3)
    images = torch.randint(256, (count, channels, height, width), generator=draw, dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.25)[:channels]
    return Dataset("drawn", images, torch.arange(count) % 7, 7, mean, std)


def _as_the_authors(dataset: Dataset, index: int, top: int, left: int, mirror: bool):
    """One image through RandomCrop's and RandomHorizontalFlip's own functions, ToTensor, Normalize.

    A crop offset ``left`` of the mirrored image is what reading from ``left`` backwards gives.
    """
    image = Image.fromarray(dataset.images[index].permute(1, 2, 0).numpy())
    height, width = dataset.input_shape[1:]
    crop = pil.crop(pil.pad(image, PADDING, fill=0), top, left, height, width)
    crop = pil.hflip(crop) if mirror else crop
    return pil.normalize(pil.to_tensor(crop), dataset.mean, dataset.std)


def test_augmented_batches_equal_torchvisions_pixel_by_pixel() -> None:
    dataset = _images()
    purpose = (5, "augmentation", 2, 1)
    draw = generator(*purpose)
    offsets = torch.randint(2 * PADDING + 1, (2, len(dataset.labels), 1), generator=draw)
    mirrored = torch.randint(2, (len(dataset.labels), 1), generator=draw)
    order = torch.randperm(len(dataset.labels), generator=generator(5, "order", 2, 1))
    feed = Feed(dataset, torch.device("cpu"), augment=True)
    seen = 0
    for x, y in feed.shuffled(8, 5, 2, 1):
        assert x.is_contiguous(memory_format=torch.channels_last)
        for image, label in zip(x, y, strict=True):
            index = int(order[seen])
            top, left = int(offsets[0, seen]), int(offsets[1, seen])
            twin = _as_the_authors(dataset, index, top, left, bool(mirrored[seen]))
            assert torch.equal(image, twin)
            assert label == dataset.labels[index]
            seen += 1
    assert seen == len(dataset.labels)
    assert {0, 2 * PADDING} <= set(offsets.flatten().tolist())  # both ends of the range occur
    assert 0 < int(mirrored.sum()) < len(mirrored)


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_in_order_gives_every_image_as_it_is(augment: bool, channels: int) -> None:
    dataset = _images(channels=channels)
    feed = Feed(dataset, torch.device("cpu"), augment=augment)
    x = torch.cat([x for x, _ in feed.in_order(10)])
    y = torch.cat([y for _, y in feed.in_order(10)])
    assert torch.equal(x, dataset.inputs())
    assert torch.equal(y, dataset.labels)


def test_inputs_that_are_no_images() -> None:
    vectors = torch.randn(10, 4)
    dataset = Dataset("vectors", vectors, torch.arange(10), 10, (0.0,), (1.0,))
    feed = Feed(dataset, torch.device("cpu"))
    for x, y in feed.shuffled(4, 0, 0, 0):
        assert torch.equal(x, vectors[y])
    with pytest.raises(RequestError, match="augmentation crop-flip: expected uint8 images C H W"):
        Feed(dataset, torch.device("cpu"), augment=True)


@pytest.mark.parametrize(
    ("examples", "batch", "sizes"),
    [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (8, 4, [4, 4]), (1, 4, [1]), (3, 1, [1, 2]), (4, 9, [4])],
)
def test_the_last_batch_takes_what_is_left(examples: int, batch: int, sizes: list[int]) -> None:
    feed = Feed(_images(examples), torch.device("cpu"))
    assert [len(y) for _, y in feed.shuffled(batch, 0, 0, 0)] == sizes
    assert feed.steps(batch) == len(sizes)


def test_streams_differ_by_seed_level_and_epoch_and_repeat() -> None:
    feed = Feed(_images(), torch.device("cpu"), augment=True)

    def first(*purpose: int) -> torch.Tensor:
        return next(feed.shuffled(23, *purpose))[0]

    assert torch.equal(first(0, 0, 0), first(0, 0, 0))
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert not torch.equal(first(0, 0, 0), first(*other))


def test_a_part_is_balanced_and_the_same_for_everyone() -> None:
    digits = load("digits")
    part = digits.part(200, "--train-samples")
    assert part.labels.bincount().tolist() == [20] * 10
    assert part.fingerprint == digits.part(200, "--train-samples").fingerprint
    assert part.fingerprint != digits.fingerprint
    assert digits.part(None, "--train-samples") is digits
    for samples, message in {
        15: "--train-samples: expected a positive multiple of the 10 classes, got 15",
        0: "--train-samples: expected a positive multiple",
        5000: r"examples of class \d: expected at least 500 \(--train-samples\)",
    }.items():
        with pytest.raises(RequestError, match=message):
            digits.part(samples, "--train-samples")
