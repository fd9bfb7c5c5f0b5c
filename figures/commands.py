"""What the command line does: draw one table, or run every experiment and draw it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from analysis.experiments import EXPERIMENTS, FURTHER, QUESTIONS
from analysis.processes import Several
from collapse import cli
from collapse.errors import RequestError, unknown
from collapse.files import PLOT_SUFFIXES, check_writable
from collapse.options import Folder, shown
from figures.by_name import FIGURES, find

__all__ = ["FIGURES", "SETS", "Drawing", "Everything", "draw", "make_all"]

# What `all` runs and draws.
SETS = {"paper": EXPERIMENTS, "questions": QUESTIONS, "further": FURTHER}


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
    size: Annotated[
        Literal["column", "page", "slide"] | None, shown("column|page|slide", "the figure's own")
    ] = None


def draw(name: str, arguments: Sequence[str]) -> None:
    """``python -m figures NAME``."""
    if name not in FIGURES:
        raise unknown("figure", name, [*FIGURES, "all"])
    request = cli.parse(Drawing, arguments, f"python -m figures {name}")
    check_writable(request.out, PLOT_SUFFIXES)

    from analysis import published
    from collapse import tables
    from collapse.plots import style
    from figures.plotting import panels

    figure = find(name)
    frame, _ = tables.read(request.table, figure.TABLE)
    theirs = None
    if request.published:
        published.check_comparable(name, frame)
        theirs = published.load(name)
    style.save(panels(figure, frame, published=theirs, size=request.size), request.out)
    print(request.out)


@dataclass(frozen=True, kw_only=True)
class Everything(Several):
    """Run every experiment and draw its figure; what is done is not done again.

    Attributes:
        of: the paper's figures, those of the reviewers' questions (docs/questions.md), or of what
            followed (docs/further.md).
        out: the folder of tables and figures.
        suffix: of the figures.
    """

    of: Literal["paper", "questions", "further"] = "paper"
    out: Folder = Path("figures-out")
    suffix: Literal["pdf", "svg", "png"] = "pdf"


def make_all(arguments: Sequence[str]) -> int:
    """``python -m figures all``: 0, or the exit code of the first experiment that went wrong."""
    request = cli.parse(Everything, arguments, "python -m figures all")
    request.check()
    check_writable(request.out / f"any.{request.suffix}", PLOT_SUFFIXES)
    start, failed = time.monotonic(), 0
    figures = SETS[request.of]
    for number, name in enumerate(figures, start=1):
        table = request.out / f"{name}.parquet"
        if not request.quiet:
            minutes = (time.monotonic() - start) / 60
            print(f"[{number}/{len(figures)}] {name} ({minutes:.1f} min)", file=sys.stderr)
        code = request.run(name, table, bar=not request.quiet)
        if code not in (0, 1):  # 1: some points failed; the figure says how many are there
            return code
        failed = failed or code
        try:
            draw(name, [str(table), "--out", str(request.out / f"{name}.{request.suffix}")])
        except RequestError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            failed = 1
    return failed
