"""Files that are either whole or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from collapse.errors import RequestError, first_line

TABLE_SUFFIXES = (".parquet", ".csv", ".json")
PLOT_SUFFIXES = (".pdf", ".svg", ".png")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without error.

    The data is on disk before the rename, so a kill at any moment leaves the old file or the new
    one, never a part. The temporary keeps the suffix, because writers choose a format by it.

    Raises:
        RequestError: the folder cannot be written or the disk is full; the old file stays.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(
            prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent
        )
        temporary = Path(name)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would hide results from a team
        os.close(descriptor)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise RequestError(f"cannot write '{path}': {first_line(error)}") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def check_writable(path: Path | None, suffixes: Sequence[str]) -> None:
    """Fail before the work, not after it, when ``path`` cannot be written; None is fine.

    Raises:
        RequestError: another suffix than these, ``path`` is a folder, or its folder is read-only
            or cannot be made.
    """
    if path is None:
        return
    if path.is_dir():
        raise RequestError(f"cannot write '{path}': it is a folder, expected a file name")
    if path.suffix not in suffixes:
        raise RequestError(f"'{path}': expected a suffix of {', '.join(suffixes)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise RequestError(f"cannot write '{path}': {first_line(error)}") from error


def check_distinct(*paths: Path | None) -> None:
    """Fail when two results would be written to one file.

    Raises:
        RequestError: a path is named twice.
    """
    named = [path.resolve() for path in paths if path is not None]
    for path in named:
        if named.count(path) > 1:
            raise RequestError(f"'{path.name}' is named for two results: expected different files")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
