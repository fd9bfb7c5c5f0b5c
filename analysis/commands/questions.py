"""``python -m analysis questions``: the reviewers' nine questions, a table each, and answers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from analysis.experiments import QUESTIONS
from analysis.processes import Several
from collapse import cli
from collapse.errors import RequestError, unknown
from collapse.files import check_writable
from collapse.options import Folder, shown
from collapse.processes import check_jobs

# Measured first and alone: what runs beside it would be in its numbers.
_ALONE = ("cost",)
# The longest, so that none of them is left to run alone at the end.
_FIRST = ("iterations", "sanity")


@dataclass(frozen=True, kw_only=True)
class Config(Several):
    """Answer the reviewers' nine questions: a table each, and `answers.csv` with every number.

    Call it again to go on: what is done is not done again. Several questions run at once, each in a
    process of its own with its share of the threads; they share the runs that they have in common.

    Attributes:
        only: some of them, by name.
        out: the folder of tables.
        jobs: how many questions at once.
    """

    only: tuple[str, ...] = tuple(QUESTIONS)
    out: Folder = Path("questions-out")
    jobs: Annotated[int | None, shown("N", "one a core")] = None


def main(config: Config) -> int:
    """Run the request: 0, or the exit code of the first question that went wrong."""
    config.check()
    names = list(dict.fromkeys(config.only))
    if not names:
        raise RequestError(f"--only: expected at least one of {', '.join(QUESTIONS)}, got none")
    for name in names:
        if name not in QUESTIONS:
            raise unknown("question", name, QUESTIONS)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    jobs = config.jobs if config.jobs is not None else cores or 1
    check_jobs(jobs)
    check_writable(config.out / "answers.csv", (".csv",))
    start = time.monotonic()
    codes = {name: _answer(config, start, None, name) for name in names if name in _ALONE}
    together = sorted(
        set(names) - set(codes), key=lambda name: (name not in _FIRST, names.index(name))
    )
    threads = max(1, (cores or 1) // min(jobs, max(1, len(together))))
    with ThreadPoolExecutor(jobs) as pool:
        done = pool.map(partial(_answer, config, start, threads), together)
        codes |= dict(zip(together, done, strict=True))
    wrong = [code for code in codes.values() if code not in (0, 1)]  # 1: some points failed
    _write_answers(config.out, names)
    return wrong[0] if wrong else max(codes.values())


def _answer(config: Config, start: float, threads: int | None, name: str) -> int:
    code = config.run(name, config.out / f"{name}.parquet", threads=threads)
    if not config.quiet:
        minutes = (time.monotonic() - start) / 60
        print(f"{name}: exit code {code} ({minutes:.1f} min)", file=sys.stderr)
    return code


def _write_answers(folder: Path, asked: Sequence[str]) -> None:
    """Of every table that is there; one that nobody asked for and cannot be read is left out."""
    import pandas as pd

    from analysis.questions import find
    from collapse import tables

    found = []
    for name in QUESTIONS:
        path = folder / f"{name}.parquet"
        if path.exists():
            module = find(name)
            try:
                table, _ = tables.read(path, module.TABLE)
            except RequestError as error:
                if name in asked:
                    raise
                print(f"{name}: left out: {error}", file=sys.stderr)
                continue
            found.append(module.answer(table).assign(question=name))
    if not found:
        raise RequestError(f"no question is answered: '{folder}' has no table yet")
    answers = pd.concat([part.astype(object) for part in found], ignore_index=True)
    answers = answers[list(tables.COLUMNS["answers"])].infer_objects()
    tables.write(answers, folder / "answers.csv", "answers")
    print(f"{len(answers):,} answers: {folder / 'answers.csv'}")


run = partial(cli.run, Config, main, prog="python -m analysis questions")
