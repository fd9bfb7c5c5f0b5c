"""The training loop: everything on the device, one host synchronisation an epoch.

Pruned weights are zero from the start and their gradients are multiplied by zero, so that momentum
and weight decay leave them there; survivors get the same bits as with masks in the forward. Where
masks leave channels that do nothing, a smaller network is trained in the model's place
(``train.smaller``), and written back into it at the end of each epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from collapse import masks as masking
from collapse.data import Dataset, Feed
from collapse.devices import Clock, has_bfloat16, to_float64
from collapse.errors import RequestError
from collapse.models import (
    Selector,
    backward_errors,
    call,
    check_finite,
    check_in_place,
    forward_errors,
    plain,
    select_output,
    stand_ins,
    untouched,
)
from collapse.options import Training
from collapse.seeding import derive
from collapse.train import recipes
from collapse.train.fused import fuse
from collapse.train.measures import channels_last, hits_of, row_of
from collapse.train.recipes import Settings
from collapse.train.sgd import begin_momentum, sgd
from collapse.train.smaller import Smaller

_NO_GRADIENT = (
    "the model's output has no gradient: expected one that depends on its parameters (is the "
    "forward under no_grad?)"
)


class DivergedError(RequestError):
    """The loss is no longer finite. The model is back at the state before that epoch."""


class Watch(Protocol):
    """Something that measures training as it goes, on the device."""

    def step(self, index: int) -> None:
        """Called with the step's number when gradients are known and weights not yet changed."""

    def measured(self) -> Tensor:
        """What was measured in the epoch, float64 ``[n]``, still on the device."""


class Trainer:
    """A network with its data and its optimizer, trained epoch by epoch.

    Args:
        model: changed in place; convolution weights take the channels_last memory format, unless
            its forward fails on such inputs.
        train, test: uint8 images or floating-point inputs.
        settings: from ``recipes.resolve``.
        seed: of order, augmentation and dropout; each epoch of each level has its own streams, so
            an epoch can be repeated without the ones before it.
        output: selects a tensor from a forward that returns several.
        compiled: torch.compile the forward (of a smaller network on a CPU its norms and poolings).
        shrink: train a smaller network where masks leave channels that do nothing.
        say: told, in a line, if that cannot be done.

    Attributes:
        parameters: what is trained, by the model's names; of the smaller network if there is one.

    Raises:
        RequestError: settings out of range, inputs that the model cannot take, a head smaller
            than the number of classes.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Dataset,
        test: Dataset,
        settings: Settings,
        *,
        seed: int = 0,
        output: Selector = None,
        compiled: bool = False,
        shrink: bool = True,
        say: Callable[[str], None] | None = None,
    ) -> None:
        check_in_place(model)
        model = plain(model)
        self.model, self.settings, self.seed, self.output = model, settings, seed, output
        if (weight := next(model.parameters(), None)) is None:
            raise RequestError("the model has no parameters: expected some to train")
        self.device, self.dtype = weight.device, weight.dtype
        check_finite(model)
        if test.input_shape != train.input_shape or test.classes > train.classes:
            raise RequestError(
                f"the test split of '{test.name}' has {test.classes} classes and inputs of shape "
                f"{test.input_shape}: expected the training split's {train.classes} and "
                f"{train.input_shape}"
            )
        train = train.part(settings.train_samples, "--train-samples")
        test = test.part(settings.test_samples, "--test-samples")
        self.feed = Feed(train, self.device, augment=settings.augmentation == "crop-flip")
        self.held_out = Feed(test, self.device)
        try:
            self._check_head()
            channels_last(model)
        except RequestError:  # a forward that takes views needs the plain memory format
            self.feed.channels_last = self.held_out.channels_last = False
            self._check_head()
        self.compiled, self.shrink, self.say = compiled, shrink, say or (lambda line: None)
        self.trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not self.trainable:
            raise RequestError(
                "every parameter is frozen: expected one with requires_grad=True to train"
            )
        self.smaller: Smaller | None = None
        self.held: dict[str, Tensor] = {}  # masks of layers with pruned weights, as factors
        self._train(model, self.trainable)
        single = self.dtype == torch.float32
        self.bfloat16 = single and has_bfloat16(self.device, settings.precision)

    def _train(self, network: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        """Train this network from now on."""
        self.network, self.parameters = network, parameters
        self.forward: Callable[..., Any] = network
        if self.compiled and self.smaller is not None and self.device.type == "cpu":
            fuse(self.smaller.network)  # as a whole it would be no faster
        elif self.compiled:  # on a GPU its launches are captured in CUDA graphs
            mode = "reduce-overhead" if self.device.type == "cuda" else "default"
            self.forward = torch.compile(network, mode=mode)
        self.optimizer = sgd(list(parameters.values()), self.settings)

    @torch.no_grad()
    def hold(self, masks: Mapping[str, Tensor]) -> None:
        """Set pruned weights and their momentum to zero, and keep them there from now on."""
        masking.apply(self.model, masks)
        momentum = self._momentum()
        for name, buffer in momentum.items():
            if name in masks:
                buffer.mul_(masks[name])
        self.smaller = self._smaller(masks, momentum) if self.shrink else None
        if self.smaller is None:
            self._train(self.model, self.trainable)
            held = {name: mask for name, mask in masks.items() if name in self.parameters}
        else:
            self._train(self.smaller.network, self.smaller.parameters)
            held = self.smaller.masks(masks)
        self._set_momentum(momentum)
        self.held = {
            name: torch.empty_like(self.parameters[name]).copy_(mask)
            for name, mask in held.items()
            if not bool(mask.all())
        }

    def _smaller(self, masks: Mapping[str, Tensor], momentum: dict[str, Tensor]) -> Smaller | None:
        """A smaller network to train; None if it would be no smaller, or cannot be."""
        if all(bool(mask.all()) for mask in masks.values()):
            return None
        example = next(self.feed.in_order(2))[0].to(self.dtype)
        try:
            found = Smaller.of(self.model, masks, example, momentum, self.output)
        except RequestError as error:
            self.say(f"trained with masks, not smaller: the network {error}")
            return None
        if found is not None and self.feed.channels_last:
            channels_last(found.network)
        return found

    def units_of(self, name: str) -> tuple[Tensor | None, Tensor | None]:
        """Which output and input units of a parameter are trained (None: all)."""
        return (None, None) if self.smaller is None else self.smaller.units_of(name)

    def whole(self, name: str, part: Tensor) -> Tensor:
        """Numbers for what is trained of a parameter, with zeros for the rest."""
        return part if self.smaller is None else self.smaller.whole(name, part, self.trainable)

    def forget_momentum(self) -> None:
        """It starts anew."""
        if self.smaller is not None:
            self.smaller.momentum.clear()
        self.optimizer.state.clear()

    def _momentum(self) -> dict[str, Tensor]:
        """Of the whole model."""
        if self.smaller is not None:
            return self.smaller.momentum
        states = {n: self.optimizer.state.get(p, {}) for n, p in self.parameters.items()}
        return {
            n: s["momentum_buffer"]
            for n, s in states.items()
            if s.get("momentum_buffer") is not None
        }

    def _set_momentum(self, momentum: dict[str, Tensor]) -> None:
        """Of the whole model."""
        if self.smaller is not None:
            self.smaller.momentum = momentum
        self.optimizer.state.clear()
        for name, parameter in self.parameters.items():
            if name in momentum:
                part = momentum[name]
                if self.smaller is not None:
                    part = self.smaller.shrunk.gather(name, part)
                buffer = torch.empty_like(parameter).copy_(part)
                self.optimizer.state[parameter] = {"momentum_buffer": buffer}

    def epoch(
        self, level: int, epoch: int, watch: Watch | None = None
    ) -> tuple[list[dict[str, Any]], list[float]]:
        """Train the epoch (counted from 0), test, and tell how it went.

        Returns:
            A row of the ``training`` table for each split, and what ``watch`` measured.

        Raises:
            DivergedError: the loss is not finite; the model is as it was before the epoch.
        """
        settings, before = self.settings, self.snapshot()
        batch_size = settings.train_batch_size
        rate = recipes.learning_rate(settings, epoch)
        self.optimizer.param_groups[0]["lr"] = rate
        losses = torch.zeros(self.feed.steps(batch_size), device=self.device)
        hits = torch.zeros(2, dtype=torch.long, device=self.device)
        sizes = []
        clock = Clock(self.device)
        seed = derive(self.seed, "forward", level, epoch)
        with untouched(self.network, "train", seed, trains=True):
            for step, (x, y) in enumerate(self.feed.shuffled(batch_size, self.seed, level, epoch)):
                logits = self._logits(x)
                if not logits.requires_grad:
                    raise RequestError(_NO_GRADIENT)
                loss = F.cross_entropy(logits, y, label_smoothing=settings.label_smoothing)
                self.optimizer.zero_grad()
                with backward_errors():
                    loss.backward()  # type: ignore[no-untyped-call]  # torch's own
                self._mask_gradients()
                if watch is not None:
                    watch.step(step)
                begin_momentum(self.optimizer)
                self.optimizer.step()
                losses[step] = loss.detach()
                hits += hits_of(logits, y)
                sizes.append(len(y))
        if self.smaller is not None:
            self.smaller.write_back(self.model, self.optimizer, len(sizes))
        clock.lap()
        tested = self._tested()
        clock.lap()
        # Everything comes over in one piece: the only time that the host waits for the device.
        parts = [to_float64(losses), to_float64(hits), to_float64(tested)]
        measured = [] if watch is None else [watch.measured()]
        numbers = torch.cat([*parts, *measured]).tolist()
        steps = len(sizes)
        self._check_finite([*numbers[:steps], numbers[steps + 2]], level, epoch, rate, before)
        loss_sum = sum(x * size for x, size in zip(numbers, sizes, strict=False))
        seconds = clock.seconds()
        rows = [
            row_of(level, epoch + 1, "train", loss_sum, numbers[steps:], sum(sizes), seconds[0]),
            self._test_row(level, epoch + 1, numbers[steps + 2 :], seconds[1]),
        ]
        return rows, numbers[steps + 5 :]

    def test(
        self, level: int, epoch: int, watch: Watch | None = None
    ) -> tuple[list[dict[str, Any]], list[float]]:
        """Test without training: a level's row of epoch 0, and what ``watch`` measures there."""
        clock = Clock(self.device)
        parts = [to_float64(self._tested())] + ([] if watch is None else [watch.measured()])
        clock.lap()
        numbers = torch.cat(parts).tolist()
        return [self._test_row(level, epoch, numbers, clock.seconds()[0])], numbers[3:]

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of parameters and buffers, and of momentum as ``momentum.NAME``."""
        state = {n: t.detach().clone() for n, t in self._tensors().items()}
        momentum = self._momentum().items()
        return state | {f"momentum.{name}": buffer.detach().clone() for name, buffer in momentum}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a snapshot, bit for bit; momentum that it lacks starts anew."""
        for name, tensor in self._tensors().items():
            tensor.copy_(state[name])
        if self.smaller is not None:
            self.smaller.read(self.model)
        saved = {name: state.get(f"momentum.{name}") for name in self.trainable}
        self._set_momentum({
            name: torch.empty_like(self.trainable[name]).copy_(buffer)
            for name, buffer in saved.items()
            if buffer is not None
        })  # fmt: skip

    def _check_head(self) -> None:
        x, _ = next(self.feed.in_order(2))
        with untouched(self.model, "eval"), torch.no_grad():
            y = call(self.model, stand_ins(self.model), x.to(self.dtype), self.output)
        classes = self.feed.dataset.classes
        if not isinstance(y, Tensor):
            raise RequestError(
                f"training needs one output: expected --output to name a tensor, got "
                f"{type(y).__name__}"
            )
        if not y.is_floating_point():
            raise RequestError(f"the model's output must be real numbers, got {y.dtype}")
        if y.ndim != 2 or y.shape[1] < classes:
            raise RequestError(
                f"the model's head does not fit '{self.feed.dataset.name}': expected an output of "
                f"shape (batch, {classes}), got {('batch', *y.shape[1:])} (--classes {classes})"
            )

    def _mask_gradients(self) -> None:
        pairs = [(self.parameters[name].grad, mask) for name, mask in self.held.items()]
        used = [(gradient, mask) for gradient, mask in pairs if gradient is not None]
        if used:
            torch._foreach_mul_([gradient for gradient, _ in used], [mask for _, mask in used])

    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}

    def _logits(self, x: Tensor) -> Tensor:
        with self._autocast(), forward_errors(self.model, x):
            result = self.forward(x if self.dtype == torch.float32 else x.to(self.dtype))
        logits: Tensor = select_output(result, self.output)
        return logits.float() if self.bfloat16 else logits

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    @torch.no_grad()
    def _tested(self) -> Tensor:
        """Sum of the test losses, top-1 and top-5 hits, float64 ``[3]`` on the device."""
        total = to_float64(torch.zeros(3, device=self.device))
        with untouched(self.network, "eval"):
            for x, y in self.held_out.in_order():
                logits = self._logits(x)
                total[0] += to_float64(F.cross_entropy(logits, y, reduction="sum"))
                total[1:] += to_float64(hits_of(logits, y))
        return total

    def _test_row(
        self, level: int, epoch: int, numbers: list[float], seconds: float
    ) -> dict[str, Any]:
        return row_of(level, epoch, "test", numbers[0], numbers[1:], len(self.held_out), seconds)

    def _check_finite(
        self,
        losses: list[float],
        level: int,
        epoch: int,
        rate: float,
        before: Mapping[str, Tensor],
    ) -> None:
        for step, loss in enumerate(losses, start=1):
            if not abs(loss) < float("inf"):
                self.restore(before)
                where = f"step {step}" if step < len(losses) else "the test"
                raise DivergedError(
                    f"the loss is {loss} at {where} of epoch {epoch + 1}, level {level} (lr "
                    f"{rate:g}): expected a finite one; the state before that epoch is kept, try "
                    "a smaller --lr"
                )


def train(
    model: nn.Module,
    train: Dataset,
    test: Dataset,
    training: Training | None = None,
    *,
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    output: Selector = None,
    on_epoch: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Train a model in place.

    Args:
        training: what it leaves out is the dataset's default (``recipes``).
        masks: pruned weights are set to zero and stay there.
        on_epoch: called with the number of epochs done.

    Returns:
        ``level, epoch, split, loss, top1, top5, seconds``: epoch 0 is the test before training;
        accuracies in percent.

    Raises:
        RequestError: see ``Trainer``.
        DivergedError: the loss is not finite.

    Example:
        >>> from collapse.data import load
        >>> data = load("gaussian", input_shape=(1, 4, 4), classes=2)
        >>> short, line = Training(epochs=1, train_samples=20), nn.Linear(16, 2)
        >>> train(nn.Sequential(nn.Flatten(), line), data, data, short)["epoch"].tolist()
        [0, 1, 1]
    """
    settings = recipes.resolve(training or Training(), "", train.name)
    trainer = Trainer(model, train, test, settings, seed=seed, output=output)
    if masks is not None:
        trainer.hold(masks)
    rows, _ = trainer.test(0, 0)
    for epoch in range(settings.epochs):
        rows += trainer.epoch(0, epoch)[0]
        if on_epoch is not None:
            on_epoch(epoch + 1)
    return pd.DataFrame(rows)
