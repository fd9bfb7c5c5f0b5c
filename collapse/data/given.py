"""Batches that are scored as they are: a user's own, and random tokens for a language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from collapse.errors import RequestError
from collapse.models import (
    Inputs,
    Selector,
    call,
    check_batches,
    first_tensor,
    floats_of,
    stand_ins,
    taken,
    untouched,
)
from collapse.seeding import generator

# Tokens a batch; activations grow with them.
_AT_ONCE = 4096


@dataclass(frozen=True)
class Given:
    """Batches as a user's function returned them.

    Attributes:
        name: as asked for.
        batches: pairs of inputs in any form and targets.
    """

    name: str
    batches: list[tuple[Inputs, Any]]

    def __post_init__(self) -> None:
        """Raise RequestError for anything but pairs, and for none."""
        try:
            check_batches(self.batches)
        except RequestError as error:
            raise RequestError(f"dataset '{self.name}': {error}") from None
        if not self.batches:
            raise RequestError(f"dataset '{self.name}': expected at least one batch, got none")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch; of the first, if there are several."""
        return tuple(first_tensor(self.batches[0][0]).shape[1:])

    @property
    def classes(self) -> int:
        """As many as integer targets show; the columns of real ones; 1 where they do not say."""
        targets = [y for _, y in self.batches if isinstance(y, Tensor) and y.numel()]
        if len(targets) < len(self.batches):
            return 1
        if targets[0].is_floating_point():
            return targets[0].shape[1] if targets[0].ndim > 1 else 1
        return max(1, max(int(y.max()) for y in targets) + 1)

    def one(self) -> list[tuple[Inputs, Any]]:
        """The first sample, for what needs the input's form only."""
        inputs, targets = self.batches[0]
        return [(taken(inputs, slice(0, 1)), taken(targets, slice(0, 1)))]


def vocabulary(model: nn.Module) -> int:
    """How many tokens a language model knows: what its config says, else its largest table.

    Raises:
        RequestError: it has neither.
    """
    config = getattr(model, "config", None)
    for part in (config, getattr(config, "text_config", None), getattr(config, "decoder", None)):
        size = getattr(part, "vocab_size", None)
        if isinstance(size, int):
            return size
    tables = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
    if not tables:
        raise RequestError(
            f"--dataset tokens: expected a model that looks up tokens, {type(model).__name__} has "
            "no nn.Embedding"
        )
    return max(tables)


def tokens(
    model: nn.Module, length: int, count: int, output: Selector, seed: int, at_once: int | None
) -> tuple[list[tuple[Inputs, Any]], bool]:
    """Random tokens with random targets that fit what the model returns of them.

    Args:
        length: tokens a sample.
        count: samples.
        at_once: samples a batch.

    Returns:
        Batches, and whether there is a target for each token (the output is
        ``[batch, tokens, classes]``): elsewhere there is one a sample, evenly over the classes.
    """
    draw = generator(seed, "tokens")
    config = getattr(model, "config", None)
    size, padding = vocabulary(model), getattr(config, "pad_token_id", None)
    decodes = bool(getattr(config, "is_encoder_decoder", False))

    def ids() -> Tensor:
        """All but padding, which models leave out of attention."""
        if not isinstance(padding, int) or not 0 <= padding < size or size < 2:
            return torch.randint(size, (count, length), generator=draw)
        found = torch.randint(size - 1, (count, length), generator=draw)
        return found + (found >= padding)

    inputs: Inputs = {"input_ids": ids(), "decoder_input_ids": ids()} if decodes else ids()
    with untouched(model, "eval"), torch.no_grad():
        found = floats_of(call(model, stand_ins(model), taken(inputs, slice(0, 1)), output))
    logits = found[0]
    each = logits.ndim > 2
    if each:
        shape = (count, *logits.shape[1:-1])
        targets = torch.randint(logits.shape[-1], shape, generator=draw)
    else:
        targets = torch.arange(count) % logits.shape[-1]
        targets = targets[torch.randperm(count, generator=draw)]
    step = at_once or max(1, _AT_ONCE // length)
    parts = [slice(start, start + step) for start in range(0, count, step)]
    return [(taken(inputs, part), targets[part]) for part in parts], each
