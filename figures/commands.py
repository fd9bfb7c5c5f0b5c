"""What the command line does: draw one table, or run every experiment and draw it."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import tyro

from analysis import published
from analysis.experiments import EXPERIMENTS, QUESTIONS
from collapse import cli, tables
from collapse.errors import RequestError, unknown
from collapse.files import PLOT_SUFFIXES, check_writable
from collapse.plots import style
from figures.plotting import panels

# Each figure draws the table of the experiment of its name.
FIGURES = {**EXPERIMENTS, **QUESTIONS}
# What `all` runs and draws.
SETS = {"paper": EXPERIMENTS, "questions": QUESTIONS}


def find(name: str) -> ModuleType:
    """A figure's module.

    Raises:
        RequestError: there is none of this name.
    """
    if name not in FIGURES:
        raise unknown("figure", name, [*FIGURES, "all"])
    return importlib.import_module(f"figures.{name.replace('-', '_')}")


@dataclass(frozen=True)
class Drawing:
    """Draw a table; nothing is computed anew.

    Attributes:
        table: from `python -m analysis NAME --out FILE` (.parquet, .csv, .json).
        out: where to (.pdf, .svg, .png).
        published: draw the paper's own numbers over ours, where they are of the same network.
        size: for a paper's column or page, or a slide.
    """

    table: tyro.conf.Positional[Path]
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    published: bool = False
    size: Literal["column", "page", "slide"] | None = None


def draw(name: str, arguments: Sequence[str]) -> None:
    """``python -m figures NAME``."""
    figure = find(name)
    request = cli.parse(Drawing, arguments, f"python -m figures {name}")
    check_writable(request.out, PLOT_SUFFIXES)
    frame, _ = tables.read(request.table, figure.TABLE)
    theirs = None
    if request.published:
        published.check_comparable(name, frame)
        theirs = published.load(name)
    style.save(panels(figure, frame, published=theirs, size=request.size), request.out)
    print(request.out)


@dataclass(frozen=True)
class Everything:
    """Run every experiment and draw its figure; what is done is not done again.

    Attributes:
        of: the paper's figures, or those of the reviewers' questions (docs/questions.md).
        preset: laptop (minutes, embedded data), paper (the paper's settings) or smoke (to try it).
        out: the folder of tables and figures.
        runs: the folder of run folders.
        data_root: where the data lies ($COLLAPSE_DATA or ./data without it).
        device: where to compute; auto takes a GPU if there is one.
        suffix: of the figures.
        quiet: no progress.
    """

    of: Literal["paper", "questions"] = "paper"
    preset: str = "laptop"
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("figures-out")
    runs: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs")
    data_root: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    suffix: Literal["pdf", "svg", "png"] = "pdf"
    quiet: bool = False


def make_all(arguments: Sequence[str]) -> int:
    """``python -m figures all``: 0, or the exit code of the first experiment that went wrong.

    Experiments run in processes of their own, so that this one needs no torch.
    """
    request = cli.parse(Everything, arguments, "python -m figures all")
    check_writable(request.out / f"any.{request.suffix}", PLOT_SUFFIXES)
    start, failed = time.monotonic(), 0
    figures = SETS[request.of]
    for number, name in enumerate(figures, start=1):
        table = request.out / f"{name}.parquet"
        if not request.quiet:
            minutes = (time.monotonic() - start) / 60
            print(f"[{number}/{len(figures)}] {name} ({minutes:.1f} min)", file=sys.stderr)
        options = ["--preset", request.preset, "--runs", request.runs, "--out", table]
        options += ["--device", request.device, *(["--quiet"] if request.quiet else [])]
        if request.data_root is not None:
            options += ["--data-root", request.data_root]
        words = [sys.executable, "-m", "analysis", name, *map(str, options)]
        code = subprocess.run(words, check=False, stdout=subprocess.DEVNULL).returncode
        if code not in (0, 1):  # 1: some points failed; the figure says how many are there
            return code
        failed = failed or code
        try:
            draw(name, [str(table), "--out", str(request.out / f"{name}.{request.suffix}")])
        except RequestError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            failed = 1
    return failed
