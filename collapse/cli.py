"""What every command shares: parsing, errors as one line, progress, exit codes.

Exit codes: 0 done, 1 a check failed, 2 the request was wrong, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from collapse.errors import RequestError, first_line, unknown

Config = TypeVar("Config")


def run(
    config: type[Config],
    main: Callable[[Config], int | None],
    prog: str,
    arguments: Sequence[str] | None = None,
) -> None:
    """Parse the command line (or ``arguments``) into ``config``, call ``main`` on it, and exit.

    A ``RequestError`` becomes one line on stderr and exit code 2, as does a wrong command line;
    ``main`` returns the exit code (None is 0).
    """
    words = sys.argv[1:] if arguments is None else arguments
    guarded(lambda: main(parse(config, words, prog)))


def guarded(main: Callable[[], int | None]) -> typing.NoReturn:
    """Call ``main`` and exit with what it returns, or with one line and a code where it raises."""
    try:
        code = main() or 0
        sys.stdout.flush()
    except RequestError as error:
        _fail(str(error))
    except (RuntimeError, MemoryError) as error:
        # torch's, by name (a GPU's) and by its words (a CPU's): drawing a figure needs no torch.
        words = isinstance(error, MemoryError) or "allocate memory" in str(error)
        if not words and type(error).__name__ != "OutOfMemoryError":
            raise
        _fail(f"out of memory: {first_line(error)}; try a smaller --batch-size or input")
    except BrokenPipeError:  # the reader of our output has left
        sys.stderr.close()
        code = 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(code)


def _fail(message: str) -> typing.NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def parse(
    config: type[Config], arguments: Sequence[str], prog: str, default: Config | None = None
) -> Config:
    """Command-line arguments as a dataclass, nested ones without prefixes.

    Args:
        default: what is not given is as there.

    Raises:
        RequestError: an option that does not exist (the nearest that do are named), a value of
            the wrong type, a missing one. ``--help`` prints and exits as usual.
    """
    valid = set(_options(config)) | {"--help"}
    for argument in arguments:
        name = argument.partition("=")[0].replace("_", "-")
        if name.startswith("--") and name not in valid:
            raise unknown("option", argument.partition("=")[0], sorted(valid))
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                config,
                args=list(arguments),
                prog=prog,
                default=tyro.MISSING_NONPROP if default is None else default,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise RequestError(_one_line(complaint.getvalue())) from None


def _options(config: type) -> Iterator[str]:
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _options(typing.cast(type, hints[field.name]))
        else:
            yield "--" + field.name.replace("_", "-")


def _one_line(box: str) -> str:
    """The text of tyro's framed message (ASCII rules where the output is no UTF-8)."""
    lines = [re.sub("[│╭╮╰╯]", "", line).strip() for line in box.splitlines()][1:]  # no title
    ruled = [bool(re.fullmatch("[─-]{3,}", line)) for line in lines]
    start = 1 if ruled[:1] == [True] else 0
    end = ruled.index(True, start) if True in ruled[start:] else len(lines)
    text = " ".join(line for line in lines[start:end] if line)
    text = text.replace("{None}|", "").replace("'None', ", "").replace(", 'None'", "")
    return text.strip("─- ") or "wrong command line; see --help"


def table_width() -> int:
    """As wide as the terminal; wide enough for whole rows where the output is no terminal."""
    console = Console()
    return console.width if console.is_terminal else 200


@contextlib.contextmanager
def progress(total: int, quiet: bool) -> Iterator[Callable[[str, int], None]]:
    """A progress bar on stderr.

    Yields:
        ``update(text, done)``: what is going on, and how many of ``total`` parts are done.
    """
    bar = Progress(
        *(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
        ),
        *(TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn()),
        console=Console(stderr=True),
        # A log is no place for a bar: errors there are one line.
        disable=quiet or not sys.stderr.isatty(),
        transient=True,
    )
    with bar:
        task = bar.add_task("starting", total=total)
        yield lambda text, done: bar.update(task, description=text, completed=done)
