"""Commands keep freed memory for the next tensor (glibc)."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Pages that the system had to clear while four blocks of 8 MiB came and went, 20 times.
FAULTS = """
import resource, sys
import torch
from collapse import cli

if "keep" in sys.argv:
    cli.keep_freed_memory()
def come_and_go():
    [torch.ones(2**21) for _ in range(4)]

come_and_go()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    come_and_go()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
ROUND = 32 * 2**20 // os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_command_clears_no_page_twice() -> None:
    assert _faults("keep") < 2 * ROUND
    assert _faults() > 15 * ROUND  # else there is nothing to gain any more


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_the_environment_has_the_last_word() -> None:
    page = str(os.sysconf("SC_PAGESIZE"))
    asked = {"MALLOC_MMAP_THRESHOLD_": page, "MALLOC_TRIM_THRESHOLD_": page}
    assert _faults("keep", **asked) > 15 * ROUND


def _faults(*words: str, **asked: str) -> int:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, *words],
        env={**plain, **asked}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)
