"""One error type for everything that a user can get wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# As many names as a reader looks through when none is near.
MANY = 40


class RequestError(ValueError):
    """The request was wrong, the toolkit is not.

    Its message is one line that says what was expected, what came and, where there is one, the
    nearest valid choice. Every command turns it into that line on stderr and exit code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def unknown(kind: str, name: str, valid: Iterable[str], listing: str = "") -> RequestError:
    """The error for a name that is not in a registry, with the nearest names that are.

    Args:
        kind: what the name should have been, e.g. ``"pruner"``.
        name: what came.
        valid: the registry's names.
        listing: how to see them all, where there are too many for a line.
    """
    choices = list(valid)
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.6)
    if near:
        hint = f"nearest: {', '.join(near)}"
    elif len(choices) > MANY:
        hint = f"none of {len(choices)} names is near{f': {listing}' if listing else ''}"
    else:
        hint = f"one of: {', '.join(choices)}"
    return RequestError(f"unknown {kind} '{name}'; {hint}")


def first_line(error: BaseException) -> str:
    """The first line of an error's own message, for quoting inside ours."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
