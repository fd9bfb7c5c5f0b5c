"""What the training loop measures, and the memory format that it trains in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from collapse.pruning.shrinking.parts import Picked


def channels_last(network: nn.Module) -> None:
    """Give convolution weights the memory format that convolutions are fastest in.

    Units of a smaller network's feature maps are then picked as is fastest there.
    """
    for module in network.modules():
        if isinstance(module, Picked):
            module.by_product = True
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def hits_of(logits: Tensor, y: Tensor) -> Tensor:
    """How many labels are the first, and among the first five, of the outputs: int64 ``[2]``."""
    best = logits.detach().topk(min(5, logits.shape[1])).indices == y[:, None]
    return torch.stack([best[:, 0].sum(), best.sum()])


def row_of(
    level: int,
    epoch: int,
    split: str,
    loss: float,
    hits: list[float],
    examples: int,
    seconds: float,
) -> dict[str, Any]:
    return {
        "level": level,
        "epoch": epoch,
        "split": split,
        "loss": loss / examples,
        "top1": 100 * hits[0] / examples,
        "top5": 100 * hits[1] / examples,
        "seconds": seconds,
    }
