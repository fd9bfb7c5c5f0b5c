"""Images in memory, and what is needed to feed them to a network."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from collapse.errors import RequestError
from collapse.options import PER_CLASS
from collapse.seeding import generator

Split = Literal["train", "test"]
# Without a wish: so many samples in all where inputs have more positions than these.
MANY, LARGE = 100, 64 * 64


@dataclass(frozen=True)
class Dataset:
    """Images in memory, with what is needed to feed them to a network.

    Attributes:
        name: as asked for.
        images: uint8 ``[n, C, H, W]`` (floating point for synthetic inputs, used as they are).
        labels: int64 ``[n]``.
        classes: how many there are.
        mean, std: of each channel on the scale 0 to 1, for normalisation.
        note: what a reader has to know of it, in words: that files of it are missing.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    note: str = ""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch."""
        return tuple(self.images.shape[1:])

    def inputs(self, index: Tensor | slice = slice(None)) -> Tensor:
        """Normalised float32 inputs ``[n, C, H, W]``."""
        images = self.images[index]
        if images.is_floating_point():
            return images
        shape = (1, -1, *(1,) * (images.ndim - 2))
        mean = torch.tensor(self.mean, device=images.device).view(shape)
        std = torch.tensor(self.std, device=images.device).view(shape)
        return (images.float() / 255 - mean) / std

    def to(self, device: torch.device) -> Dataset:
        """The same on a device."""
        images, labels = self.images.to(device), self.labels.to(device)
        return replace(self, images=images, labels=labels)

    def per_class(self, samples: int, seed: int, option: str = "--samples-per-class") -> Tensor:
        """Indices of ``samples`` examples of each class, in random order.

        Raises:
            RequestError: a class has fewer, or ``samples`` is below 1.
        """
        if samples < 1:
            raise RequestError(f"samples per class: expected at least 1, got {samples}")
        order = torch.randperm(len(self.labels), generator=generator(seed, "samples"))
        labels = self.labels.cpu()[order]
        picks = []
        for label in range(self.classes):
            found = order[labels == label][:samples]
            if len(found) < samples:
                raise RequestError(
                    f"'{self.name}' has {len(found)} examples of class {label}: "
                    f"expected at least {samples} ({option})"
                )
            picks.append(found)
        # Shuffled, so that each batch holds a mixture of classes.
        together = torch.cat(picks)
        return together[torch.randperm(len(together), generator=generator(seed, "sample order"))]

    def part(self, samples: int | None, option: str) -> Dataset:
        """The same ``samples`` images whoever asks, equally many of each class; all for None.

        Raises:
            RequestError: not a multiple of the number of classes, or more than there are.
        """
        if samples is None:
            return self
        if samples < 1 or samples % self.classes:
            raise RequestError(
                f"{option}: expected a positive multiple of the {self.classes} classes, got "
                f"{samples}"
            )
        index = self.per_class(samples // self.classes, 0, option).sort().values
        return replace(self, images=self.images[index], labels=self.labels[index])

    @property
    def bounded(self) -> bool:
        """Whether scores are of ``MANY`` samples unless more are asked for."""
        return self._area > LARGE and PER_CLASS * self.classes > MANY

    @property
    def _area(self) -> int:
        shape = self.input_shape
        return shape[-1] * (shape[-2] if len(shape) > 2 else 1)

    @property
    def fingerprint(self) -> str:
        """A hash of the images and labels."""
        return _hash(self.images.cpu(), self.labels.cpu())

    def score_batches(
        self,
        samples_per_class: int | None = None,
        *,
        samples: int | None = None,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> list[tuple[Tensor, Tensor]]:
        """Batches of (inputs, labels) for the data-driven scores: equally many of each class.

        Args:
            samples_per_class: without it the paper's 10, or ``MANY`` samples in all where inputs
                are ``LARGE`` and 10 a class are more: 10,000 images of ImageNet take hours.
            samples: so many in all instead, spread over the classes at random.
            batch_size: 256 at 32×32 as in the paper's code without it, fewer on larger images
                (activations grow with the area). In train mode BatchNorm sees one batch at a time.
        """
        if samples is samples_per_class is None:
            samples = MANY if self.bounded else None
        if samples is None:
            each = PER_CLASS if samples_per_class is None else samples_per_class
            index = self.per_class(each, seed)
        elif samples < 1:
            raise RequestError(f"samples: expected at least 1, got {samples}")
        else:
            index = self.per_class(-(-samples // self.classes), seed, "--samples")[:samples]
        whole = max(1, min(256, 256 * 32 * 32 // self._area))
        size = whole if batch_size is None else batch_size
        if size < 1:
            raise RequestError(f"batch size: expected at least 1, got {batch_size}")
        # A last batch of one sample has no batch statistics: it joins the one before.
        parts = list(torch.split(index, size))
        if len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        return [(self.inputs(part), self.labels[part]) for part in parts]


def _hash(*tensors: Tensor) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
