"""What a user's forward raises, as one line: the input, the operation, the place, and the cause.

A cause is named only where the error's own words show it.
"""

from __future__ import annotations

import inspect
import linecache
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from collapse.errors import RequestError, first_line
from collapse.models.batches import Inputs, arguments, shapes, tensors_in

_HERE = Path(__file__).parents[1]
# Ours and torch's own frames around an operation: it is named by the one below them.
_AROUND = re.compile(
    rf"^{re.escape(str(_HERE))}|torch/(overrides|utils/_contextlib|utils/_pytree|nn/modules/module)\.py$"
    r"|torch/(_functorch/functional_call|nn/utils/stateless|fx/\w+)\.py$"
)

_SIZES = re.compile(
    r"shapes cannot be multiplied|to have \d+ channels|[Kk]ernel size can't be greater"
    r"|output size is too small|size mismatch, got|Expected more than 1 value per channel"
    r"|expected input\[|does not match.*hidden size|input\.size\(-1\) must be equal"
)
_TYPES = re.compile(
    r"scalar type|same dtype|not implemented for '|Input type \(.*\) and (weight|bias) type"
    r"|can't be cast|must have the same dtype"
)
_DEVICES = re.compile(
    r"on the same device|Input type \((torch\.)?cuda|is on \w+, (but|different)"
    r"|on the expected device"
)
_CALL = re.compile(r"missing \d+ required|unexpected keyword argument|positional arguments? but")

_AT_RANDOM, _EXACT = "deterministic implementation", "without --exact others are allowed"


@contextmanager
def forward_errors(model: nn.Module, inputs: Inputs) -> Iterator[None]:
    """Whatever a forward in the block raises becomes a RequestError: input, place and cause."""
    try:
        yield
    except (torch.OutOfMemoryError, RequestError):
        raise
    except Exception as error:  # the forward is the user's and may raise anything
        if "InvalidCxxCompiler" in first_line(error):  # within an error of torch's compiler
            raise RequestError(
                "--compile needs a C++ compiler, and torch found none: expected g++ or clang, or "
                "leave --compile out"
            ) from error
        kind = "" if isinstance(error, RuntimeError) else f"{type(error).__name__}: "
        given = f"an input of {shapes(inputs)}" if isinstance(inputs, Tensor) else shapes(inputs)
        raise RequestError(
            f"the model's forward failed on {given}{place_of(model, error)}: "
            f"{kind}{first_line(error)}{_cause(model, inputs, error)}"
        ) from error


class BackwardError(RequestError):
    """A backward pass failed."""


@contextmanager
def backward_errors(near: Callable[[], str] = str) -> Iterator[None]:
    """Whatever a backward pass in the block raises becomes a BackwardError.

    Args:
        near: says where, with a space in front, if that is known.
    """
    try:
        yield
    except (torch.OutOfMemoryError, RequestError):
        raise
    except Exception as error:  # a user's backward may raise anything
        cause = "expected a forward whose gradients can be computed once"
        words, overwritten, _ = first_line(error).partition("modified by an inplace operation")
        if overwritten:
            cause = "expected a forward that leaves what it has read: .clone() it before h[…] = …"
        elif _AT_RANDOM in words:
            cause = _EXACT
        raise BackwardError(
            f"the backward pass failed{near()}: {words}{overwritten} ({cause})"
        ) from error


def _frames(error: BaseException) -> list[tuple[FrameType, traceback.FrameSummary]]:
    walked = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    listed = traceback.extract_tb(error.__traceback__)
    return [
        (frame, summary)
        for frame, summary in zip(walked, listed, strict=True)
        if not _AROUND.search(summary.filename)
    ]


def line_of(error: BaseException) -> str:
    """`` (losses.py line 12)``: the last line of the user's own that an error went through."""
    own = [frame for _, frame in _frames(error) if "site-packages" not in frame.filename]
    return f" ({Path(own[-1].filename).name} line {own[-1].lineno})" if own else ""


def place_of(model: nn.Module, error: BaseException) -> str:
    """`` in 'head' (Linear: F.linear)``; nothing where the forward was not reached."""
    frames = _frames(error)
    paths = {id(module): path for path, module in model.named_modules()}
    running = [m for frame, _ in frames if id(m := _owner(frame)) in paths]
    if not running:
        return ""
    path, kind = paths[id(running[-1])], type(running[-1]).__name__
    last = frames[-1][1]
    what = _operation(last)
    if "site-packages" not in last.filename:  # the user's own line
        line = f"{Path(last.filename).name} line {last.lineno}"
        what = f"{what}, {line}" if what else line
    inside = f"'{path}' ({kind}" if path else f"{kind} ("
    return f" in {inside}{': ' if path and what else ''}{what})"


def _owner(frame: FrameType) -> Any:
    """Whose method runs: ``self``, whatever its name is."""
    code = frame.f_code
    first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
    return first if hasattr(type(first), code.co_name) else None


def _operation(frame: traceback.FrameSummary) -> str:
    """The call or expression that raised, without its arguments; empty for a ``raise``."""
    source = linecache.getline(frame.filename, frame.lineno or 0)
    start, end = getattr(frame, "colno", None), getattr(frame, "end_colno", None)
    one_line = frame.lineno == getattr(frame, "end_lineno", frame.lineno)
    text = source.encode()[start : end if one_line else None].decode(errors="replace").strip()
    if not text or text.startswith(("raise", "assert")):
        return ""
    called = re.match(r"[\w.]+(?=\()", text)
    return called[0] if called else text[:40]


def _cause(model: nn.Module, inputs: Inputs, error: Exception) -> str:
    words, tensors = str(error), list(tensors_in(inputs))
    floats = any(x.is_floating_point() for x in tensors)
    if isinstance(error, TypeError) and _CALL.search(words):
        return _wanted(model, inputs)
    if isinstance(error, IndexError) and "out of range in self" in words:
        return _out_of_table(error)
    if not isinstance(error, RuntimeError):
        return ""
    if _DEVICES.search(words):
        where = _weights(model, "device")
        return f" (inputs are on {_each(tensors, 'device')}, weights on {where})"
    if "indices" in words and floats:
        return (
            " (ids of tokens are integers: --dataset tokens, of the doctor --tokens N, or int64 "
            "inputs)"
        )
    if _TYPES.search(words):
        kinds = _each(tensors, "dtype").replace("torch.", "")
        return f" (inputs are {kinds}, weights {_weights(model, 'dtype').replace('torch.', '')})"
    if _AT_RANDOM in words:
        return f" ({_EXACT})"
    if _SIZES.search(words) and isinstance(inputs, Tensor) and floats:
        return " (another shape: --input-shape C H W, with --dataset gaussian but for the doctor)"
    return ""


def _each(tensors: list[Tensor], attribute: str) -> str:
    return ", ".join(dict.fromkeys(str(getattr(x, attribute)) for x in tensors))


def _weights(model: nn.Module, attribute: str) -> str:
    return _each([p for p in model.parameters() if p.is_floating_point()], attribute)


def _wanted(model: nn.Module, inputs: Inputs) -> str:
    """What the forward takes, against what it was given."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return ""
    needed = [p.name for p in parameters if p.default is p.empty and p.kind < p.VAR_KEYWORD]
    args, keywords = arguments(inputs)
    given = ", ".join([f"{len(args)} by position"] * bool(args) + list(keywords))
    takes = ", ".join(needed or [p.name for p in parameters][:8])
    return (
        f" ({type(model).__name__}.forward takes {takes}; given {given}; inputs may be a tuple or "
        "a dict)"
    )


def _out_of_table(error: Exception) -> str:
    """Which ids a table does not have."""
    for frame, _ in reversed(_frames(error)):
        ids, table = frame.f_locals.get("input"), frame.f_locals.get("weight")
        if isinstance(ids, Tensor) and isinstance(table, Tensor) and ids.numel():
            return f" (ids {int(ids.min())} to {int(ids.max())} of a table of {len(table)})"
    return ""
