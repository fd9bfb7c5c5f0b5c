"""The loss of a model's outputs: cross-entropy as torch defines it, or the user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from collapse.errors import RequestError, first_line
from collapse.models import import_user, line_of, tensors_in

# Of what the model's output selects, and the batch's targets.
Loss = Callable[[Any, Any], Tensor]

# The target of what cross-entropy leaves out.
IGNORED = -100


def token_cross_entropy(output: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy of every token, with classes in the last dimension.

    Args:
        output: ``[batch, …, classes]``, as language models return it.
        targets: integers ``[batch, …]``; -100 is left out.
    """
    return F.cross_entropy(output.flatten(0, -2), targets.flatten())


def load_loss(name: str | None) -> Loss:
    """The loss that ``package.module:function`` names; cross-entropy for None.

    Raises:
        RequestError: the import fails, or it names no function.
    """
    if name is None:
        return F.cross_entropy
    if ":" not in name:
        raise RequestError(f"loss '{name}': expected package.module:function")
    function: Loss = import_user(name, "loss")
    if not callable(function) or isinstance(function, type):
        kind = "a class" if isinstance(function, type) else type(function).__name__
        raise RequestError(f"loss '{name}': expected a function (output, targets), got {kind}")
    return function


def value_of(loss: Loss, outputs: Any, targets: Any) -> Tensor:
    """The loss, a scalar.

    Raises:
        RequestError: it fails, gives no scalar, or is cross-entropy and does not fit (what it
            expects is said).
    """
    if loss is F.cross_entropy:
        _check_classes(outputs, targets)
    try:
        value = loss(outputs, targets)
    except (RequestError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a user's loss may raise anything
        raise RequestError(
            f"the loss failed with {type(error).__name__}: {first_line(error)}{line_of(error)}; it "
            f"was given {_described(outputs)} as output and {_described(targets)} as targets"
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise RequestError(f"the loss: expected a scalar tensor, got {_described(value)}")
    return value.reshape(())


def _check_classes(output: Any, targets: Any) -> None:
    """What torch's cross-entropy takes: classes in dimension 1, and an integer for each."""
    if not isinstance(output, Tensor) or not isinstance(targets, Tensor):
        raise RequestError(
            "cross-entropy takes an output [batch, classes, …] and targets [batch, …]: got "
            f"{_described(output)} and {_described(targets)} (a loss of your own: --loss "
            "package.module:function, in Python loss=)"
        )
    if targets.is_floating_point():
        if targets.shape != output.shape:
            raise RequestError(
                f"the targets are {_described(targets)}: expected integer classes, or a loss of "
                "your own for real numbers (--loss torch.nn.functional:mse_loss, in Python loss=)"
            )
        return
    classes = targets[targets != IGNORED]
    if not len(classes):
        return
    low, high = int(classes.min()), int(classes.max())
    fits = output.ndim == targets.ndim + 1 and output[:, 0].shape == targets.shape
    if fits and low >= 0 and high < output.shape[1]:
        return
    wanted = ", ".join(["batch", "classes", *map(str, targets.shape[1:])])
    hint = ""
    if targets.ndim > 1 and output.shape[:-1] == targets.shape:
        hint = (
            "; with classes last as in language models: --loss "
            "collapse.scores:token_cross_entropy, in Python loss="
        )
    if low < 0:
        raise RequestError(
            f"the data has classes from {low} to {high}: expected them from 0 up ({IGNORED} is "
            "left out)"
        )
    raise RequestError(
        f"the data has classes from {low} to {high}: expected an output of shape [{wanted}] that "
        f"covers them, got {tuple(output.shape)}{hint}"
    )


def _described(x: Any) -> str:
    if isinstance(x, Tensor):
        return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
    tensors = ", ".join(_described(t) for t in tensors_in(x))
    return f"{type(x).__name__} of {tensors}" if tensors else type(x).__name__
