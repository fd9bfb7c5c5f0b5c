"""``python -m analysis report --model NAME --out report.html``: one page for one network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from collapse import cli
from collapse.errors import RequestError
from collapse.files import atomic, check_writable
from collapse.options import (
    PAPER_PRUNERS,
    Execution,
    Quiet,
    Runs,
    Setup,
    check_once,
    check_pruners,
    check_seed,
    shown,
)


@dataclass(frozen=True, kw_only=True)
class Config(Runs, Quiet):
    """Critical compression, densities, conservation and dead weights of a network on one page.

    The page is one file that needs nothing else: it works offline, on a phone and on paper.

    Attributes:
        out: the page (.html).
        pruners: random, magnitude, snip, grasp, synflow, or package.module:function.
        seeds: of initialisation, samples and random scores; several give bands and ranges.
    """

    setup: Setup
    out: Annotated[Path, shown("FILE")] = Path("report.html")
    pruners: tuple[str, ...] = PAPER_PRUNERS
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(aliases=["--seed"])] = (0,)


def main(config: Config) -> int:
    """Run the request; the exit code is 1 if a part of the page could not be computed."""
    config.setup.check()
    check_pruners(*config.pruners, option="--pruners")
    if not config.seeds:
        raise RequestError("--seeds: expected at least one, got none")
    check_once("--seeds", config.seeds)
    for seed in config.seeds:
        check_seed(seed, "--seeds")
    check_writable(config.out, (".html",))
    try:
        from analysis.report import render
    except ImportError as error:
        raise RequestError(
            f"a report needs {error.name}: install the extra with "
            "`pip install layer-collapse[report]`"
        ) from error
    from analysis.report.gather import gather
    from analysis.resumable import Resources
    from collapse.problem import choose_device

    device = str(choose_device(config.setup.device))
    resources = Resources(Execution(config.runs, quiet=config.quiet), device=device)
    report = gather(config.setup, pruners=config.pruners, seeds=config.seeds, resources=resources)
    page = render(report, device)
    with atomic(config.out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    problems = {name: part.problem for name, part in report.parts.items() if part.problem}
    for name, problem in problems.items():
        print(f"{name}: could not be computed: {problem}")
    for name, why in report.notes:
        print(f"{name}: could not be computed: {why}")
    print(f"{config.out} ({len(page.encode()) / 1e6:.2f} MB)")
    return 1 if problems or report.notes else 0


run = partial(cli.run, Config, main, prog="python -m analysis report")
