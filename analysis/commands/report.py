"""``python -m analysis report --model NAME --out report.html``: one page for one network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from analysis.experiments.shared import PRUNERS
from analysis.report.gather import gather
from analysis.resumable import Resources
from collapse import cli
from collapse.errors import RequestError
from collapse.files import atomic, check_writable
from collapse.options import Execution, Setup
from collapse.problem import choose_device


@dataclass(frozen=True)
class Config:
    """Critical compression, densities, conservation and dead weights of a network on one page.

    The page is one file that needs nothing else: it works offline, on a phone and on paper.

    Attributes:
        out: the page (.html).
        pruners: random, magnitude, snip, grasp, synflow, or package.module:function.
        seed: of initialisation, samples and random scores.
        runs: where what is done is kept, so that an interrupted report goes on.
        quiet: no progress bar.
    """

    setup: Setup
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("report.html")
    pruners: tuple[str, ...] = PRUNERS
    seed: int = 0
    runs: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs")
    quiet: bool = False


def main(config: Config) -> int:
    """Run the request; the exit code is 1 if a part of the page could not be computed."""
    check_writable(config.out, (".html",))
    try:
        from analysis.report import render
    except ImportError as error:
        raise RequestError(
            f"a report needs {error.name}: install the extra with "
            "`pip install layer-collapse[report]`"
        ) from error
    device = str(choose_device(config.setup.device))
    resources = Resources(Execution(config.runs, quiet=config.quiet), device=device)
    report = gather(config.setup, pruners=config.pruners, seed=config.seed, resources=resources)
    page = render(report, device)
    with atomic(config.out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    problems = {name: part.problem for name, part in report.parts.items() if part.problem}
    for name, problem in problems.items():
        print(f"{name}: could not be computed: {problem}")
    print(f"{config.out} ({len(page.encode()) / 1e6:.1f} MB)")
    return 1 if problems else 0


def run(arguments: Sequence[str]) -> None:
    """Entry point."""
    cli.run(Config, main, "python -m analysis report", arguments)
