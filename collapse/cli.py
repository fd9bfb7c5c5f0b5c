"""What every command shares: parsing, errors as one line, progress, exit codes.

Exit codes: 0 done, 1 a check failed, 2 the request was wrong, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import os
import re
import sys
import time
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import tyro
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

import collapse
from collapse.errors import RequestError, first_line, unknown
from collapse.files import PLOT_SUFFIXES, TABLE_SUFFIXES, check_distinct, check_writable
from collapse.processes import keep_freed_memory, share_cores

if TYPE_CHECKING:
    import pandas as pd

Config = TypeVar("Config")
PIPED = 100  # columns of a table that goes to a file or a pipe
A_LINE_EVERY = 60.0  # seconds, of progress in a log
GAP = 2  # blanks between columns, and before the first


def run(
    config: type[Config],
    main: Callable[[Config], int | None],
    arguments: Sequence[str] | None = None,
    *,
    prog: str,
) -> typing.NoReturn:
    """Parse the command line (or ``arguments``) into ``config``, call ``main`` on it, and exit.

    A ``RequestError`` becomes one line on stderr and exit code 2, as does a wrong command line;
    ``main`` returns the exit code (None is 0).
    """
    words = sys.argv[1:] if arguments is None else arguments
    guarded(lambda: main(parse(config, words, prog)))


def guarded(main: Callable[[], int | None]) -> typing.NoReturn:
    """Call ``main`` and exit with what it returns, or with one line and a code where it raises."""
    keep_freed_memory()
    share_cores()
    _unwritten.clear()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as >&- does: nobody reads it
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # until the process ends
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that knows no × shows a ?
        sys.stdout.reconfigure(errors="replace")
    try:
        code = main() or 0
        sys.stdout.flush()
    except RequestError as error:
        _fail("; ".join([str(error), *_unwritten]))
    except (RuntimeError, MemoryError) as error:
        # torch's, by name (a GPU's) and by its words (a CPU's): drawing a figure needs no torch.
        words = isinstance(error, MemoryError) or "allocate memory" in str(error)
        if not words and type(error).__name__ != "OutOfMemoryError":
            raise
        _fail(f"out of memory: {first_line(error)}; try a smaller --batch-size or input")
    except BrokenPipeError:  # the reader of our output has left
        _drop_output()
        code = 0
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _drop_output()
        _fail(f"cannot write the output: {error.strerror}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    if _unwritten:
        _fail("; ".join(dict.fromkeys(_unwritten)))
    sys.exit(code)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # of a disk that output was sent to
# Why files were not written; said after what else there is to show.
_unwritten: list[str] = []


def later(write: Callable[[], object]) -> None:
    """Write a file. Where that fails, the command goes on, and the error follows with exit code 2.

    What was computed is shown then, also where the disk is full.
    """
    try:
        write()
    except RequestError as error:
        _unwritten.append(str(error))


def _drop_output() -> None:
    """What is still to be printed goes nowhere, without a word from Python when it ends."""
    with contextlib.suppress(OSError, ValueError):  # not a file, as in a notebook
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Console(Console):
    """rich's, which would end the process with exit code 1 where a reader has left."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        raise BrokenPipeError


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
            the wrong type, a missing one. ``--help`` and ``--version`` print and exit.
    """
    if "--version" in arguments:
        print_version()
    valid = {*options(config), "--help", "--version"}
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


def options(config: type) -> Iterator[str]:
    """Every option that a configuration takes, with its aliases and its ``--no-`` forms."""
    hints = typing.get_type_hints(config)
    marked = typing.get_type_hints(config, include_extras=True)
    for field in dataclasses.fields(config):
        for mark in getattr(marked[field.name], "__metadata__", ()):
            yield from getattr(mark, "aliases", None) or ()
        if dataclasses.is_dataclass(hints[field.name]):
            yield from options(typing.cast(type, hints[field.name]))
        else:
            name = field.name.replace("_", "-")
            yield from [f"--{name}", f"--no-{name}"] if hints[field.name] is bool else [f"--{name}"]


def print_version() -> typing.NoReturn:
    """Print the toolkit's version and exit."""
    print(f"layer-collapse {collapse.__version__}")
    sys.exit(0)


def _one_line(box: str) -> str:
    """The text of tyro's framed message (ASCII rules where the output is no UTF-8)."""
    lines = [re.sub("[│╭╮╰╯]", "", line).strip() for line in box.splitlines()][1:]  # no title
    ruled = [bool(re.fullmatch("[─-]{3,}", line)) for line in lines]
    start = 1 if ruled[:1] == [True] else 0
    end = ruled.index(True, start) if True in ruled[start:] else len(lines)
    text = " ".join(line for line in lines[start:end] if line)
    text = text.replace("{None}|", "").replace("'None', ", "").replace(", 'None'", "")
    return text.strip("─- ") or "wrong command line; see --help"


def print_commands(about: Mapping[str, str | None]) -> None:
    """Print a line each: a command's name and the first line of what is said about it."""
    for name, text in about.items():
        print(f"  {name:<15} {(text or '').partition(chr(10))[0]}")


class Outputs:
    """The files that a command was asked for: checked before the work, written after it.

    Args:
        files: by the name of the table that goes there, ``plot`` or ``masks``; None where it
            was not asked for.

    Raises:
        RequestError: two of them are one file, a suffix is unknown, or a folder is not writable.
    """

    def __init__(self, **files: Path | None) -> None:
        suffixes = {"plot": PLOT_SUFFIXES, "masks": (".safetensors",)}
        check_distinct(*files.values())
        for name, path in files.items():
            check_writable(path, suffixes.get(name, TABLE_SUFFIXES))
        self.asked = {name: path for name, path in files.items() if path is not None}

    def write(self, table: str, frame: pd.DataFrame, device: object = "cpu") -> None:
        """Write a table if it was asked for, as ``later`` does."""
        if table in self.asked:
            from collapse import tables

            self.hand(table, lambda path: tables.write(frame, path, table, str(device)))

    def hand(self, name: str, write: Callable[[Path], object]) -> None:
        """Have a file written if it was asked for, as ``later`` does."""
        if name in self.asked:
            later(lambda: write(self.asked[name]))


def number(value: float) -> str:
    """A number as every table and sentence prints it: three digits, or all whole ones with commas.

    Example:
        >>> from collapse.cli import number
        >>> [number(value) for value in (1_051_113.14, 99.96, 4.0612, 0.00081234)]
        ['1,051,113', '100', '4.06', '0.000812']
    """
    return f"{value:,.0f}" if 100 <= abs(value) < 1e12 else f"{value:.3g}"


def print_table(
    title: str,
    rows: Sequence[Mapping[str, typing.Any]],
    columns: Mapping[str, str],
    notes: Iterable[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """A table to the output, in the terminal's width or in 100 columns (``COLUMNS`` says another).

    What is too wide is wrapped between words, then loses its spare columns, the last of them first,
    and in a terminal breaks words. Numbers are never cut.

    Args:
        columns: by heading, how a cell is made of a row's value: ``"{layer}"``, or on the right
            with a format, ``"{kept:,}"``; ``"{density:n}"`` is ``number``. It is empty where the
            value is None.
        notes: lines below it.
        spare: headings of the columns that a narrow terminal can do without, best first.
    """
    console = _Console(emoji=False, markup=False)  # a layer's name may look like either
    room = console.width if console.is_terminal or "COLUMNS" in os.environ else PIPED
    cells = {name: [name, *(_cell(form, row) for row in rows)] for name, form in columns.items()}
    dropped_last = [name for name in spare if name in columns]
    while sum(widths := _widths(cells, columns, room)) > room and dropped_last:
        del cells[dropped_last.pop()]
    if console.is_terminal and sum(widths) > room:
        widths = _widths(cells, columns, room, broken=True)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name, width in zip(cells, widths, strict=True):
        right = ":" in columns[name]
        table.add_column(
            name, justify="right" if right else "left", overflow="fold", width=width - GAP
        )
    for row in zip(*(cells[name][1:] for name in cells), strict=True):
        table.add_row(*row)
    console.width = max(room, sum(widths))
    console.print(title, style="italic", highlight=False, soft_wrap=True)
    console.print()
    with console.capture() as shown:
        console.print(Padding(table, (0, 0, 0, GAP)))
    # In a file, lines end where their text does: tables are copied, compared and searched.
    console.file.writelines(
        line if console.is_terminal else f"{line.rstrip()}\n"
        for line in shown.get().splitlines(keepends=True)
    )
    console.print()
    for note in notes:
        console.print(note, highlight=False, soft_wrap=not console.is_terminal)


def _cell(form: str, row: Mapping[str, typing.Any]) -> str:
    (key,) = re.findall(r"{(\w+)", form)
    if row[key] is None:
        return ""
    return number(row[key]) if form == f"{{{key}:n}}" else form.format_map(row)


def _widths(
    cells: Mapping[str, Sequence[str]], columns: Mapping[str, str], room: int, broken: bool = False
) -> list[int]:
    """Widths with gaps: the widest columns of text are narrowed until all fit, if they can be.

    Args:
        broken: also below their longest word.
    """
    widths, least = [], []
    for name, texts in cells.items():
        widths.append(max(map(len, texts)) + GAP)
        right = ":" in columns[name]
        # What a row is about, and a verdict without a heading, can be searched for in a log.
        whole = right or (not broken and name in (next(iter(cells)), ""))
        words = texts[1:] if whole else [word for text in texts for word in text.split()]
        longest = max(map(len, [*words, *name.split()]), default=0)
        least.append(GAP + (longest if right or not broken else min(longest, 8)))
    while sum(widths) > room and any(w > m for w, m in zip(widths, least, strict=True)):
        spare = [w if w > m else 0 for w, m in zip(widths, least, strict=True)]
        widths[spare.index(max(spare))] -= 1
    return widths


def rows_of(frame: pd.DataFrame) -> list[dict[str, typing.Any]]:
    """The rows of a frame as dictionaries, with None where there is no value."""
    values = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return typing.cast(list[dict[str, typing.Any]], values)


@contextlib.contextmanager
def progress(total: float, quiet: bool) -> Iterator[Callable[[str, float], None]]:
    """A progress bar on stderr; off a terminal a line a minute, with the time that is left.

    Yields:
        ``update(text, done)``: what is going on, and how much of ``total`` is done.
    """
    said = time.monotonic()
    first: tuple[float, float] | None = None  # a run that goes on has done a part before
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        *(TimeElapsedColumn(), TextColumn("left: {task.fields[left]}")),
        console=_Console(stderr=True, emoji=False),
        disable=quiet or not sys.stderr.isatty(),
        transient=True,
    )

    def update(text: str, done: float) -> None:
        nonlocal first, said
        now, share = time.monotonic(), done / total if total else 1.0
        first = first or (now, share)
        left = _time_left(now - first[0], share - first[1], 1 - share)
        bar.update(task, description=text, completed=done, left=left)
        # A log is no place for a bar.
        if bar.disable and not quiet and now - said >= A_LINE_EVERY:
            said = now
            print(f"{text}: {share:.0%} done, left: {left}", file=sys.stderr, flush=True)

    with bar:
        task = bar.add_task("starting", total=total, left="unknown")
        yield update


def _time_left(spent: float, share: float, left: float) -> str:
    """What is left if it goes on as it went."""
    if share <= 0.005:
        return "unknown"
    return duration(max(0.0, spent * left / share))


def duration(seconds: float) -> str:
    """For a reader who waits: seconds, minutes, hours or days."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360_000 else f"{seconds / 86400:,.0f} days"
