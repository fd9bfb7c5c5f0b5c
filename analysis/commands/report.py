"""``python -m analysis report --model NAME --out report.html``: one page for one network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from collapse import cli
from collapse.errors import RequestError
from collapse.files import atomic, check_writable
from collapse.options import (
    PAPER_PRUNERS,
    Execution,
    Quiet,
    Runs,
    Setup,
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
        seed: of initialisation, samples and random scores.
    """

    setup: Setup
    out: Annotated[Path, shown("FILE")] = Path("report.html")
    pruners: tuple[str, ...] = PAPER_PRUNERS
    seed: int = 0


def main(config: Config) -> int:
    """Run the request; the exit code is 1 if a part of the page could not be computed."""
    config.setup.check()
    check_pruners(*config.pruners, option="--pruners")
    check_seed(config.seed)
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
    report = gather(config.setup, pruners=config.pruners, seed=config.seed, resources=resources)
    page = render(report, device)
    with atomic(config.out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    problems = {name: part.problem for name, part in report.parts.items() if part.problem}
    for name, problem in problems.items():
        print(f"{name}: could not be computed: {problem}")
    print(f"{config.out} ({len(page.encode()) / 1e6:.1f} MB)")
    return 1 if problems else 0


run = partial(cli.run, Config, main, prog="python -m analysis report")
