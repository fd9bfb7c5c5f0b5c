"""Batches from a dataset that lies on the device: drawn, augmented and normalised there.

The augmentation is the authors' (pad 4 black pixels, crop at random, mirror half), but of a whole
batch in one indexing operation, which reads each image at its own offset and direction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from collapse.data.dataset import Dataset
from collapse.errors import RequestError
from collapse.seeding import generator

PADDING = 4  # pixels on each side


class Feed:
    """A dataset on a device.

    Images (4 dimensions) are stored with channels last, so that a batch comes out of the
    indexing in the memory format that convolutions are fastest in.

    Args:
        augment: crop and mirror in ``shuffled``.

    Attributes:
        channels_last: the memory format of batches; set it to False for the plain one.

    Raises:
        RequestError: augmentation of inputs that are no uint8 images.
    """

    def __init__(self, dataset: Dataset, device: torch.device, *, augment: bool = False) -> None:
        self.dataset = dataset.to(device)
        self.augment = augment
        self.channels_last = True
        self.is_image = dataset.images.ndim == 4
        if augment and not (self.is_image and dataset.images.dtype == torch.uint8):
            raise RequestError(
                f"augmentation crop-flip: expected uint8 images C H W, '{dataset.name}' has "
                f"{dataset.images.dtype} inputs of shape {dataset.input_shape}"
            )
        if self.is_image:
            self.height, self.width = dataset.input_shape[1:]
            pad = PADDING if augment else 0
            last = self.dataset.images.permute(0, 2, 3, 1)
            self.stored = F.pad(last, (0, 0, pad, pad, pad, pad)).contiguous()
            self.mean = torch.tensor(dataset.mean, device=device)
            self.std = torch.tensor(dataset.std, device=device)

    def __len__(self) -> int:
        return len(self.dataset.labels)

    def steps(self, batch_size: int) -> int:
        """How many batches ``shuffled`` gives."""
        return len(_parts(len(self), batch_size))

    def in_order(self, batch_size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Every example once as it is, unaugmented: (inputs ``[n, C, H, W]``, labels ``[n]``).

        Args:
            batch_size: 512 at 32×32 without it, fewer on larger images.
        """
        if batch_size is None:
            area = math.prod(self.dataset.input_shape[1:])
            batch_size = max(1, min(512, 512 * 32 * 32 // area))
        for start in range(0, len(self), batch_size):
            part = slice(start, start + batch_size)
            if self.is_image:
                pad = PADDING if self.augment else 0
                rows, columns = slice(pad, pad + self.height), slice(pad, pad + self.width)
                yield self._normalised(self.stored[part, rows, columns]), self.dataset.labels[part]
            else:
                yield self.dataset.inputs(part), self.dataset.labels[part]

    def shuffled(
        self, batch_size: int, seed: int, *purpose: str | int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Every example once in random order, augmented if asked for.

        The last batch takes what is left; a single example joins the batch before, because it has
        no batch statistics. All choices are drawn on the CPU at once, so that they are the same
        on every device and cost one copy an epoch.

        Args:
            seed, purpose: of the random streams, e.g. ``(0, "train", level, epoch)``.
        """
        device = self.dataset.labels.device
        order = torch.randperm(len(self), generator=generator(seed, "order", *purpose))
        order = _send(order, device)
        crops = self._crops(generator(seed, "augmentation", *purpose), device)
        for start, end in _parts(len(self), batch_size):
            index = order[start:end]
            labels = self.dataset.labels[index]
            if self.is_image:
                rows, columns = (places[start:end] for places in crops)
                images = self.stored[index[:, None, None], rows[:, :, None], columns[:, None, :]]
                yield self._normalised(images), labels
            else:
                yield self.dataset.inputs(index), labels

    def _crops(self, draw: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
        """The row and the column that each pixel of each image is read from ``[n, H], [n, W]``."""
        if not self.is_image:
            return torch.empty(0), torch.empty(0)
        count = len(self) if self.augment else 1
        rows = torch.arange(self.height).expand(count, -1)
        columns = torch.arange(self.width).expand(count, -1)
        if self.augment:
            offsets = torch.randint(2 * PADDING + 1, (2, count, 1), generator=draw)
            mirrored = torch.randint(2, (count, 1), generator=draw).bool()
            columns = torch.where(mirrored, columns.flip(1), columns)
            rows, columns = rows + offsets[0], columns + offsets[1]
        rows, columns = _send(rows, device), _send(columns, device)
        return rows.expand(len(self), -1), columns.expand(len(self), -1)

    def _normalised(self, images: Tensor) -> Tensor:
        """``[n, H, W, C]`` as stored to normalised float ``[n, C, H, W]``."""
        if not images.is_floating_point():
            images = images.float().div_(255).sub_(self.mean).div_(self.std)
        images = images.permute(0, 3, 1, 2)
        return images if self.channels_last else images.contiguous()


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device without waiting for it: from pinned memory where there is such a thing."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)


def _parts(examples: int, batch_size: int) -> list[tuple[int, int]]:
    starts = list(range(0, examples, batch_size))
    if len(starts) > 1 and examples - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], examples], strict=True))
