"""From the options to a network on its device, with the data that it is scored on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse import data, models
from collapse.errors import RequestError
from collapse.models import Selector
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
        uncounted: a word on weights that are no layer's; empty if there are none.
    """

    model: nn.Module
    batches: Sequence[Batch] = ()
    output: Selector = None
    loss: Loss = F.cross_entropy
    uncounted: str = ""

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

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch."""
        return tuple(self.example.shape[1:])

    @property
    def device(self) -> torch.device:
        """Where the model and the batches are."""
        return self.example.device


def _uncounted(model: nn.Module) -> str:
    """A word on weights that are no layer's, so that nobody takes N for all there is."""
    layers = models.prunable(model)
    others = {n: p.numel() for n, p in model.named_parameters() if p.ndim > 1 and n not in layers}
    if not others:
        return ""
    return (
        f"not counted: {sum(others.values()):,} parameters of {len(others)} tensors that are no "
        f"Linear's or Conv's weight (e.g. {next(iter(others))})"
    )


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
    uncounted = _uncounted(model)  # says so now if there is nothing to prune
    if labelled:
        batches = dataset.score_batches(
            setup.samples_per_class, samples=setup.samples, batch_size=setup.batch_size, seed=seed
        )
    else:
        first = slice(0, 1)
        batches = [(dataset.inputs(first), dataset.labels[first])]
    model = model.to(device)
    batches = [(x.to(device), y.to(device)) for x, y in batches]
    return Problem(model, batches, setup.output, uncounted=uncounted)


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
