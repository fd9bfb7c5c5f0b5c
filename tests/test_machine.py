"""Commands keep freed memory for the next tensor (glibc), and their threads share the cores."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Pages that the system had to clear while four blocks of 8 MiB came and went, 8 times.
FAULTS = """
import ctypes, resource, sys
from collapse import cli

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

if "keep" in sys.argv:
    cli.keep_freed_memory()
def come_and_go():
    blocks = [libc.malloc(2**23) for _ in range(4)]
    for block in blocks:
        ctypes.memset(block, 1, 2**23)
    for block in blocks:
        libc.free(block)

come_and_go()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    come_and_go()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
# mallopt is glibc's: with another C library nothing is set, so there is nothing to see.
GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
ROUND = 32 * 2**20 // os.sysconf("SC_PAGESIZE")


@GLIBC
def test_a_command_clears_no_page_twice() -> None:
    """Without it they are cleared in most processes: in which ones hangs on the heap's layout."""
    assert _faults("keep") < 2 * ROUND


@GLIBC
def test_the_environment_has_the_last_word() -> None:
    page = str(os.sysconf("SC_PAGESIZE"))
    asked = {"MALLOC_MMAP_THRESHOLD_": page, "MALLOC_TRIM_THRESHOLD_": page}
    assert _faults("keep", **asked) > 6 * ROUND


WAITING = """
import os, sys
from collapse import cli

cli.guarded(lambda: print(os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules))
"""


@pytest.mark.parametrize("asked", [None, "ACTIVE"])
def test_threads_sleep_while_they_wait(asked: str | None) -> None:
    """OpenMP reads it when torch is imported, which is later."""
    plain = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment = plain if asked is None else {**plain, "OMP_WAIT_POLICY": asked}
    words = [sys.executable, "-c", WAITING]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [asked or "PASSIVE", "False"]


def _faults(*words: str, **asked: str) -> int:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, *words],
        env={**plain, **asked}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)
