"""From the options to a network on its device, with the data that it is scored on."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse import data, models
from collapse import masks as masking
from collapse.errors import RequestError
from collapse.models import Inputs, Masks, Selector
from collapse.options import PER_CLASS, TOKENS, Mode, Pruning, Setup
from collapse.scores import Batch, Loss, load_loss, mode_of, needs_labels, token_cross_entropy

# So many samples, and so many of inputs with more positions, are looked at for layers that the
# first one does not reach.
_ROUTED, _OF_LARGE, _LARGE = 64, 8, 64 * 64


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
        batches: pairs of inputs (a tensor ``[n, …]``, a tuple of arguments, a dict of keywords)
            and targets, on the model's device.
        output: selects a tensor from a forward that returns several; ``"all"`` for all of them.
        loss: of (what ``output`` selects, targets), for the scores that follow one.
        include, exclude: patterns of parameters to prune as well, and of layers not to prune.
        given: the user's own network; ``model`` is the plain one of the same function and, where
            they are parameters already, the same tensors (``models.plain``).
        sample_notes: that the samples are fewer than the paper's where nobody asked for that,
            that files of the dataset are missing.

    Example:
        >>> images, classes = torch.ones(2, 4), torch.tensor([0, 1])
        >>> problem = Problem(nn.Sequential(nn.Linear(4, 2)), [(images, classes)])
        >>> list(problem.dense())
        ['0.weight']
    """

    model: nn.Module
    batches: Sequence[Batch] = ()
    output: Selector = None
    loss: Loss = F.cross_entropy
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    given: nn.Module = None  # type: ignore[assignment]  # set below
    sample_notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise RequestError for what is no model or no batches."""
        if not isinstance(self.model, nn.Module):
            raise RequestError(
                f"model: expected a torch.nn.Module, got {type(self.model).__name__}"
            )
        models.check_batches(self.batches)
        if self.given is None:
            object.__setattr__(self, "given", self.model)
        object.__setattr__(self, "model", models.plain(self.model))

    @classmethod
    def of(cls, model: nn.Module | Problem, batches: Sequence[Batch] = ()) -> Problem:
        """A problem as it is; a model with its batches.

        Raises:
            RequestError: batches beside a problem, which has its own; or as ``Problem``.
        """
        if isinstance(model, Problem):
            if len(batches):
                raise RequestError("batches: expected none beside a Problem, which has its own")
            return model
        if isinstance(batches, Tensor | Mapping):
            models.check_batches([batches])
        return cls(model, list(batches))

    @staticmethod
    def options(options: Pruning | None) -> Pruning:
        """The options, or the defaults.

        Raises:
            RequestError: they are none.
        """
        if options is not None and not isinstance(options, Pruning):
            raise RequestError(f"options: expected collapse.Pruning(pruner=…), got {options!r}")
        return options or Pruning()

    @property
    def example(self) -> Inputs:
        """The first batch's inputs.

        Raises:
            RequestError: there is none.
        """
        if not self.batches:
            raise RequestError("expected at least one batch, for the input's shape; got none")
        return self.batches[0][0]

    @functools.cached_property
    def _reach(self) -> models.Reach:
        """Not looked for without a batch; nothing where the output depends on no layer at all or
        the forward fails: whatever needs it will say so.
        """
        layers = list(self._prunable())
        if not self.batches:
            return models.Reach([], [])
        try:
            large = math.prod(self.input_shape[1:]) > _LARGE
            most = min(models.samples(self.example), _OF_LARGE if large else _ROUTED)
            # A router may send other samples to other layers.
            for count in sorted({1, most}):
                samples = models.taken(self.example, slice(0, count))
                found = models.reach(self.model, layers, samples, self.output)
                if not found.unreached:
                    break
        except RequestError:
            return models.Reach([], [])
        return models.Reach([], []) if len(found.unreached) == len(layers) else found

    @property
    def unreached(self) -> dict[str, int]:
        """The sizes of the layers that the output does not depend on, by name."""
        layers = self._prunable()
        return {name: layers[name].numel() for name in self._reach.unreached}

    def dense(self) -> Masks:
        """Masks that keep everything: every layer that is reached, as included and excluded."""
        masks = masking.dense(self.model, include=self.include, exclude=self.exclude)
        unreached = self.unreached
        return {name: mask for name, mask in masks.items() if name not in unreached}

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
        unreached = self.unreached
        layers = [name for name in self._prunable() if name not in unreached]
        return models.uncounted_words(self.model, layers, self.unreached)

    @functools.cached_property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know of the numbers: what is not counted, reached or quantised."""
        notes = [
            *self.sample_notes,
            self.uncounted,
            models.unreached_words(self.unreached),
            models.without_gradient_words(self._reach.without_gradient),
        ]
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
        """Shape of one input, without the batch; of the first, if there are several."""
        return tuple(models.first_tensor(self.example).shape[1:])

    @property
    def device(self) -> torch.device:
        """Where the model and the batches are."""
        return models.first_tensor(self.example).device


def check_setup(setup: Setup, dataset: data.Dataset | data.Given) -> None:
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
    drawn = (setup.samples, setup.batch_size, setup.samples_per_class) != (None, None, None)
    if isinstance(dataset, data.Given) and drawn:
        raise RequestError(
            f"'{setup.dataset}' returns batches, which are scored as they are: expected no "
            "--samples, --samples-per-class and --batch-size"
        )


def prepare(
    setup: Setup,
    seed: int,
    *,
    labelled: bool,
    dataset: data.Dataset | data.Given | None = None,
    loss: str | None = None,
) -> Problem:
    """Build the network and draw its scoring batches.

    Args:
        seed: of the initialisation and of the samples.
        labelled: whether a data-driven score will be computed; one sample is enough otherwise.
        dataset: the training split, if it is loaded already.
        loss: ``package.module:function`` in place of cross-entropy.
    """
    device, function = choose_device(setup.device), load_loss(loss)
    if setup.dataset == TOKENS:
        model, batches, function = _on_tokens(setup, seed, labelled, function)
        sample_notes: list[str] = []
    else:
        model, batches, sample_notes = _on_dataset(setup, seed, labelled, dataset)
    problem = Problem(
        model.to(device),
        models.moved(batches, device),
        setup.output,
        function,
        include=setup.include,
        exclude=setup.exclude,
        sample_notes=tuple(sample_notes),
    )
    if setup.output is not None:
        _check_selects(problem)
    return problem


def _on_tokens(
    setup: Setup, seed: int, labelled: bool, loss: Loss
) -> tuple[nn.Module, Sequence[Batch], Loss]:
    """Random tokens: the network says which there are, so it is built first."""
    shape = (16,) if setup.input_shape is None else setup.input_shape
    if len(shape) != 1 or shape[0] < 1:
        raise RequestError(f"--input-shape: expected how many tokens, one number, got {shape}")
    classes = setup.classes or 10
    model = _built(setup, shape, classes, seed)
    of_each = PER_CLASS if setup.samples_per_class is None else setup.samples_per_class
    count = classes * of_each if setup.samples is None else setup.samples
    if count < 1 or (setup.batch_size is not None and setup.batch_size < 1):
        raise RequestError("samples and batch size: expected at least 1")
    batches, each = data.tokens(
        model, shape[0], count if labelled else 1, setup.output, seed, setup.batch_size
    )
    return model, batches, token_cross_entropy if each and loss is F.cross_entropy else loss


def _built(setup: Setup, input_shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    model = models.build(
        setup.model,
        input_shape=input_shape,
        classes=classes,
        init=setup.init,
        weights=setup.weights,
        seed=seed,
    )
    # Says so now if there is nothing to prune.
    models.prunable(model, include=setup.include, exclude=setup.exclude)
    return model


def _check_selects(problem: Problem) -> None:
    """Raise RequestError where --output chooses a part of what is one tensor in both modes."""
    model, example = problem.model, models.taken(problem.example, [0, 0])
    tensors = models.stand_ins(model)
    for mode in ("eval", "train"):  # GoogLeNet returns several in train mode only
        with models.untouched(model, mode), torch.no_grad():
            if models.returns_several(model, tensors, example):
                return
    raise RequestError(
        f"--output {problem.output}: the model returns one tensor; leave the option out"
    )


def _on_dataset(
    setup: Setup,
    seed: int,
    labelled: bool,
    dataset: data.Dataset | data.Given | None,
) -> tuple[nn.Module, Sequence[Batch], list[str]]:
    """The network, its batches, and what a reader has to know of these."""
    if dataset is None:
        dataset = data.for_scoring(
            setup.dataset,
            root=setup.data_root,
            input_shape=setup.input_shape,
            classes=setup.classes,
            seed=seed,
        )
    check_setup(setup, dataset)
    model = _built(setup, dataset.input_shape, setup.classes or dataset.classes, seed)
    if isinstance(dataset, data.Given):
        return model, dataset.batches if labelled else dataset.one(), []
    if not labelled:
        first = slice(0, 1)
        return model, [(dataset.inputs(first), dataset.labels[first])], []
    batches = dataset.score_batches(
        setup.samples_per_class, samples=setup.samples, batch_size=setup.batch_size, seed=seed
    )
    notes = [dataset.note]
    if dataset.bounded and setup.samples is setup.samples_per_class is None:
        count = sum(len(labels) for _, labels in batches)
        notes.append(
            f"scores that follow data are of {count} samples, because inputs are larger than "
            f"64×64; the paper's are of {PER_CLASS} a class (--samples-per-class {PER_CLASS})"
        )
    return model, batches, notes


def check_mode(mode: Mode | None, *pruners: str) -> None:
    """Raise RequestError where a mode is asked for that none of the pruners is scored in."""
    if mode is not None and all(mode_of(pruner, mode) != mode for pruner in pruners):
        raise RequestError(
            f"--mode {mode}: expected a pruner that is scored in this mode (snip or grasp, say), "
            f"got {', '.join(pruners)}"
        )


def check_loss(loss: str | None, *pruners: str) -> None:
    """Raise RequestError where a loss is named that none of the pruners follows."""
    if loss is not None and not any(map(needs_labels, pruners)):
        raise RequestError(
            f"--loss {loss}: expected a pruner that follows a loss (snip or grasp, say), got "
            f"{', '.join(pruners)}"
        )


def settings_row(
    setup: Setup, input_shape: tuple[int, ...], options: Pruning, iterations: int
) -> dict[str, Any]:
    """The columns that every table begins with (``tables.COLUMNS``), and an allocation if any."""
    return {
        "model": setup.model,
        "dataset": setup.dataset,
        "input_shape": "x".join(str(size) for size in input_shape),
        "pruner": options.pruner,
        "iterations": iterations,
        "schedule": options.schedule,
        "scope": options.ranks,
        "mode": mode_of(options.pruner, options.mode),
        "seed": options.seed,
        **({} if options.allocation is None else {"allocation": options.allocation}),
    }
