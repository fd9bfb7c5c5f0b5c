"""From the options to a network on its device, with the data that it is scored on."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from collapse import data, models
from collapse import masks as masking
from collapse.errors import RequestError
from collapse.models import Masks, Selector
from collapse.options import Mode, Pruning, Setup
from collapse.scores import Batch, Loss, mode_of


def choose_device(name: str) -> torch.device:
    """``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        RequestError: a GPU was asked for and there is none.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    if not available.get(name, False):
        raise RequestError(
            f"--device {name}: no such GPU here; available: "
            f"{', '.join(kind for kind, there in available.items() if there)}"
        )
    return torch.device(name)


@dataclass(frozen=True)
class Problem:
    """A network with the data that it is scored on.

    Attributes:
        batches: pairs of inputs ``[n, …]`` and integer targets ``[n]``, on the model's device.
        output: selects a tensor from a forward that returns several.
        loss: of (output, targets), for the scores that follow one.
        include, exclude: patterns of parameters to prune as well, and of layers not to prune.
        given: the user's own network; ``model`` is the plain one of the same function and, where
            they are parameters already, the same tensors (``models.plain``).
    """

    model: nn.Module
    batches: Sequence[Batch] = ()
    output: Selector = None
    loss: Loss = F.cross_entropy
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    given: nn.Module = None  # type: ignore[assignment]  # set below

    def __post_init__(self) -> None:
        if self.given is None:
            object.__setattr__(self, "given", self.model)
        object.__setattr__(self, "model", models.plain(self.model))

    @classmethod
    def of(cls, model: nn.Module | Problem, batches: Sequence[Batch] = ()) -> Problem:
        """A problem as it is; a model with its batches."""
        return model if isinstance(model, Problem) else cls(model, list(batches))

    @property
    def example(self) -> Tensor:
        """The first batch's inputs ``[n, …]``.

        Raises:
            RequestError: there is none.
        """
        if not self.batches:
            raise RequestError("expected at least one batch, for the input's shape; got none")
        return self.batches[0][0]

    @functools.cached_property
    def unreached(self) -> dict[str, int]:
        """The sizes of the layers that the output does not depend on, by name.

        Not looked for without a batch, and none where the output depends on no layer at all or
        the forward fails: whatever needs it will say so.
        """
        layers = self._prunable()
        if not self.batches:
            return {}
        try:
            one = tree_map(lambda x: x[:1], self.example)
            found = models.unreached(self.model, layers, one, self.output)
        except RequestError:
            return {}
        return {} if len(found) == len(layers) else {name: layers[name].numel() for name in found}

    def dense(self) -> Masks:
        """Masks that keep everything: every layer that is reached, as included and excluded."""
        masks = masking.dense(self.model, include=self.include, exclude=self.exclude)
        return {name: mask for name, mask in masks.items() if name not in self.unreached}

    def start(self) -> Masks:
        """What pruning starts from: everything, or what ``torch.nn.utils.prune`` has left."""
        dense, own = self.dense(), self._own_masks
        return {n: mask & own[n].to(mask.device) if n in own else mask for n, mask in dense.items()}

    @functools.cached_property
    def _own_masks(self) -> Masks:
        return models.with_own_masks(self.given)[1]

    @property
    def uncounted(self) -> str:
        """A word on weights that are no layer's; empty if there are none."""
        layers = [name for name in self._prunable() if name not in self.unreached]
        return models.uncounted_words(self.model, layers, self.unreached)

    @functools.cached_property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know of the numbers: what is not counted, reached or quantised."""
        notes = [self.uncounted, models.unreached_words(self.unreached)]
        if models.is_quantised(self.given):
            notes.append("observers and fake quantisation are left out: the weights are looked at "
                         "as they are before it")  # fmt: skip
        return tuple(note for note in notes if note)

    def all_zero(self, *layers: str) -> str:
        """A word on those of the layers that hold nothing but zeros; empty if none does."""
        return models.zero_words(models.all_zero(self.model, layers))

    def _prunable(self) -> dict[str, nn.Parameter]:
        return models.prunable(self.model, include=self.include, exclude=self.exclude)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch."""
        return tuple(self.example.shape[1:])

    @property
    def device(self) -> torch.device:
        """Where the model and the batches are."""
        return self.example.device


def check_setup(setup: Setup, dataset: data.Dataset) -> None:
    """Raise RequestError where the options contradict the dataset."""
    if setup.input_shape is not None and setup.input_shape != dataset.input_shape:
        raise RequestError(
            f"--input-shape {setup.input_shape}: '{setup.dataset}' has inputs of shape "
            f"{dataset.input_shape}; leave the option out or use --dataset gaussian"
        )
    if setup.classes is not None and setup.classes < dataset.classes:
        raise RequestError(
            f"--classes {setup.classes}: '{setup.dataset}' has {dataset.classes} classes"
        )


def prepare(
    setup: Setup, seed: int, *, labelled: bool, dataset: data.Dataset | None = None
) -> Problem:
    """Build the network and draw its scoring batches.

    Args:
        seed: of the initialisation and of the samples.
        labelled: whether a data-driven score will be computed; one sample is enough otherwise.
        dataset: the training split, if it is loaded already.
    """
    device = choose_device(setup.device)
    if dataset is None:
        dataset = data.load(
            setup.dataset,
            root=setup.data_root,
            input_shape=setup.input_shape,
            classes=setup.classes,
            seed=seed,
        )
    check_setup(setup, dataset)
    model = models.build(
        setup.model,
        input_shape=dataset.input_shape,
        classes=setup.classes or dataset.classes,
        init=setup.init,
        weights=setup.weights,
        seed=seed,
    )
    # Says so now if there is nothing to prune.
    models.prunable(model, include=setup.include, exclude=setup.exclude)
    if labelled:
        batches = dataset.score_batches(
            setup.samples_per_class, samples=setup.samples, batch_size=setup.batch_size, seed=seed
        )
    else:
        first = slice(0, 1)
        batches = [(dataset.inputs(first), dataset.labels[first])]
    model = model.to(device)
    batches = [(x.to(device), y.to(device)) for x, y in batches]
    return Problem(model, batches, setup.output, include=setup.include, exclude=setup.exclude)


def check_mode(mode: Mode | None, *pruners: str) -> None:
    """Raise RequestError where a mode is asked for that none of the pruners is scored in."""
    if mode is not None and all(mode_of(pruner, mode) != mode for pruner in pruners):
        raise RequestError(
            f"--mode {mode}: expected a pruner that is scored in this mode (snip or grasp, say), "
            f"got {', '.join(pruners)}"
        )


def settings_row(
    setup: Setup, input_shape: tuple[int, ...], options: Pruning, iterations: int
) -> dict[str, Any]:
    """The columns that every table begins with (``tables.COLUMNS``)."""
    return {
        "model": setup.model,
        "dataset": setup.dataset,
        "input_shape": "x".join(str(size) for size in input_shape),
        "pruner": options.pruner,
        "iterations": iterations,
        "schedule": options.schedule,
        "scope": options.scope,
        "mode": mode_of(options.pruner, options.mode),
        "seed": options.seed,
    }
