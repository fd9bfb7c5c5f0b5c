"""Experiments in processes of their own: the loop of ``analysis questions`` and ``figures all``."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from collapse.errors import unknown
from collapse.options import Machine, Quiet, Runs

PRESETS = ("laptop", "paper", "smoke")  # every experiment has these


@dataclass(frozen=True)
class Several(Runs, Machine, Quiet):
    """What all the experiments are called with.

    Attributes:
        preset: laptop (minutes each), paper (the paper's settings) or smoke (seconds, to try it).
    """

    preset: str = "laptop"

    def check(self) -> None:
        """Raise RequestError for an unknown preset."""
        if self.preset not in PRESETS:
            raise unknown("preset", self.preset, PRESETS)

    def run(self, name: str, table: Path, *, threads: int | None = None, bar: bool = False) -> int:
        """One experiment in a process of its own: this one needs no torch.

        Args:
            table: where its table goes.
            threads: of its computations; as many as there are cores if None.
            bar: whether its own progress bar shows; its words come at its end, named, otherwise.

        Returns:
            Its exit code.
        """
        options = ["--preset", self.preset, "--runs", self.runs, "--device", self.device]
        options += ["--out", table, *([] if bar else ["--quiet"])]
        if self.data_root is not None:
            options += ["--data-root", self.data_root]
        words = [sys.executable, "-m", "analysis", name, *map(str, options)]
        own = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(
            words, check=False, stdout=subprocess.DEVNULL, stderr=None if bar else subprocess.PIPE,
            text=True, env={**os.environ, **own},
        )  # fmt: skip
        for line in (done.stderr or "").splitlines():
            print(f"{name}: {line}", file=sys.stderr)
        return done.returncode
