"""Are the tests worth their time? Change one line of the engine at a time, and see who notices.

Each mutation is a mistake that a reviewer would want caught: a dropped factor, `<` for `<=`, the
wrong reduction, momentum that is not cleared. Its line is found by its text in the package, so
code may be moved and files renamed. Mutations, listed in ``mutants.txt``, are made in a copy of
the checkout. The tests named with each run first. Those that they let pass meet all fast tests:
all of them at once, then each alone the tests that failed. A test that fails without the mutation
too catches nothing.

    uv run python tests/mutants.py --list        # is every line still there?
    uv run python tests/mutants.py --only 3 17   # two of them; all without it, which takes an hour
    uv run python tests/mutants.py --named-only  # the tests named with each, no others
    uv run python tests/mutants.py --out found.json --resume

Exit code 1 if one survived or was not found. "All fast tests" are without ``SKIPPED``: minutes of
notebooks, of a browser, of sweeps on ray, of killed processes, which look at nothing here.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

SKIPPED = ("test_notebooks", "test_report", "test_sweeps", "test_kills", "test_gpu")
LIST = Path(__file__).with_suffix(".txt")
# Imported once, before the fork of each run of tests: this is most of what a short test takes.
HEAVY = ("torch", "torch.fx", "torchvision", "pandas", "scipy.stats", "timm")
LIMIT = 3600  # seconds for one run of tests; a mutation that takes longer is caught
NOT_COPIED = {".git", ".venv", ".hypothesis", ".mypy_cache", ".ruff_cache", "data", "runs", "dist"}
CAUGHT, PASSED, SURVIVED, MISSING = "caught", "passed the first", "SURVIVED", "NOT FOUND"
UNSOUND = "UNSOUND"


class Mutation(NamedTuple):
    """One changed line, or two that follow each other where one alone is not unique."""

    tests: tuple[str, ...]  # to try first: files (without path and suffix), functions, folders
    old: tuple[str, ...]  # without indentation and trailing comment
    new: tuple[str, ...]

    def __str__(self) -> str:
        pairs = zip(self.old, self.new, strict=True)  # which also holds them to equal numbers
        return "; ".join(f"{old}  →  {new}" for old, new in pairs if old != new)


def parsed(text: str) -> list[Mutation]:
    """Mutations from lines: tests, then for each mutation lines to remove (-) and to add (+)."""
    found: list[tuple[tuple[str, ...], list[str], list[str]]] = []
    tests: tuple[str, ...] = ()
    ended = True  # whether the next line to remove begins a mutation
    for line in text.splitlines():
        if line.startswith("- "):
            if ended:
                found.append((tests, [], []))
            found[-1][1].append(line[2:])
        elif line.startswith("+ "):
            found[-1][2].append(line[2:])
        elif not line.startswith("#"):
            tests = tuple(line.split())
        ended = not line.startswith("- ")
    return [Mutation(tests, tuple(old), tuple(new)) for tests, old, new in found]


def places(root: Path, old: tuple[str, ...]) -> list[tuple[Path, int]]:
    """Where these lines follow each other in the package: file and line, counted from 0."""
    found = []
    for path in sorted((root / "collapse").rglob("*.py")):
        lines = [line.split("  #")[0].strip() for line in path.read_text().splitlines()]
        found += [(path, i) for i in range(len(lines)) if (*lines[i : i + len(old)],) == old]
    return found


@contextmanager
def mutated(path: Path, start: int, mutation: Mutation) -> Iterator[None]:
    """The file with the mutation in it, inside the block only."""
    before = path.read_text()
    lines = before.splitlines()
    for i, new in enumerate(mutation.new, start):
        lines[i] = lines[i][: len(lines[i]) - len(lines[i].lstrip())] + new
    try:
        path.write_text("\n".join(lines) + "\n")
        yield
    finally:
        path.write_text(before)


def paths_of(root: Path, names: tuple[str, ...]) -> list[str]:
    """Tests as pytest takes them, from names of files or folders, with ``::function`` or not."""
    paths = sorted((root / "tests").rglob("*"))
    parts = [(path.relative_to(root), name.partition("::")) for name in names for path in paths]
    return [f"{path}{a}{b}" for path, (n, a, b) in parts if path.name in (n, f"{n}.py")]


def pytest(tree: Path, arguments: list[str]) -> list[str]:
    """The tests that fail, or what else went wrong; random examples are always the same."""
    for name in HEAVY:
        importlib.import_module(name)
    with tempfile.TemporaryFile("w+") as file:
        child = os.fork()
        if child == 0:
            _run_tests(tree, arguments, file.fileno())
        _, status = os.waitpid(child, 0)
        file.seek(0)
        output = file.read()
    if os.WIFSIGNALED(status):
        return [f"signal {os.WTERMSIG(status)}, after {LIMIT} s at most"]
    code = os.waitstatus_to_exitcode(status)
    assert code not in (4, 5), output  # a test that is not there
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
    return failed or [f"exit code {code}: {output[-300:]}"] * bool(code)


def _run_tests(tree: Path, arguments: list[str], output: int) -> NoReturn:
    """In a process of its own, which ends here."""
    code = 1
    try:
        signal.alarm(LIMIT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)}
        sys.dont_write_bytecode = True
        options = ["-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        code = int(importlib.import_module("pytest").main([*options, *arguments]))
    finally:
        sys.stdout.flush()
        os._exit(code)


class Report:
    """What became of each mutation: printed, and on disk after each of them."""

    def __init__(self, path: Path | None, resume: bool) -> None:
        self.path = path
        before = path.read_text() if resume and path is not None and path.is_file() else "[]"
        self.rows: dict[str, dict[str, object]] = {r["mutation"]: r for r in json.loads(before)}
        self.sound: set[str] = set()  # tests that pass alone and without a mutation

    def status(self, mutation: Mutation) -> object:
        return self.rows.get(str(mutation), {}).get("status")

    def note(self, number: int, mutation: Mutation, status: str, **more: object) -> None:
        self.rows[str(mutation)] = {"mutation": str(mutation), "status": status, **more}
        print(f"{number:3}  {status:6}", *(f" {key} {x}" for key, x in more.items()), flush=True)
        if self.path is not None:
            part = self.path.with_suffix(".part")  # so that a kill leaves the last whole one
            part.write_text(json.dumps([*self.rows.values()], indent=1, ensure_ascii=False))
            part.replace(self.path)


def main() -> None:
    """Run mutations, or list them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="only say where each line is")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of mutations")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="checkout")
    parser.add_argument("--out", type=Path, help="results so far, as JSON")
    parser.add_argument("--resume", action="store_true", help="skip what --out has finished")
    parser.add_argument("--named-only", action="store_true", help="leave out all other tests")
    options = parser.parse_args()
    everything = dict(enumerate(parsed(LIST.read_text()), start=1))
    chosen = {n: everything[n] for n in options.only or everything}
    for test in sorted({test for mutation in chosen.values() for test in mutation.tests}):
        assert paths_of(options.root, (test,)), f"no test file or folder is called {test}"
    if options.list:
        found = {n: places(options.root, m.old) for n, m in chosen.items()}
        for n, where in found.items():
            names = [f"{path.relative_to(options.root)}:{i + 1}" for path, i in where]
            print(f"{n:3}  {' '.join(names) or MISSING}  {chosen[n]}")
        sys.exit(any(len(where) != 1 for where in found.values()))
    report = Report(options.out, options.resume)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "checkout"
        left_out = {str(options.root): NOT_COPIED}
        shutil.copytree(options.root, tree, ignore=lambda at, _: left_out.get(at, {"__pycache__"}))
        for n, mutation in chosen.items():
            if report.status(mutation) in (None, MISSING, UNSOUND):
                try_one(tree, n, mutation, paths_of(tree, mutation.tests), report)
        left = {n: m for n, m in chosen.items() if report.status(m) == PASSED}
        if left and not options.named_only:
            try_together(tree, left, report)
    statuses = [str(report.status(mutation)) for mutation in chosen.values()]
    print(", ".join(f"{count} {status}" for status, count in Counter(statuses).items()))
    sys.exit(set(statuses) != {CAUGHT})


def try_one(tree: Path, n: int, mutation: Mutation, tests: list[str], report: Report) -> None:
    """Run these tests on one mutation, until one fails."""
    found = places(tree, mutation.old)
    if len(found) != 1:
        report.note(n, mutation, MISSING, times=len(found))
        return
    start, path = time.monotonic(), found[0][0].relative_to(tree)
    with mutated(*found[0], mutation):
        by = "".join(pytest(tree, ["-n", "0", "-x", *tests])[:1]) if tests else ""
    status = CAUGHT if by else SURVIVED if report.status(mutation) == PASSED else PASSED
    if "::" in by and by not in report.sound:
        if pytest(tree, ["-n", "0", by]):
            status = UNSOUND
        else:
            report.sound.add(by)
    seconds, line = round(time.monotonic() - start, 1), found[0][1] + 1
    report.note(n, mutation, status, at=f"{path}:{line}", by=by or "nothing", seconds=seconds)


def try_together(tree: Path, left: dict[int, Mutation], report: Report) -> None:
    """Run all tests on many mutations at once, and on each of them alone those that failed."""
    tests = ["tests", *(f"--ignore={path}" for path in paths_of(tree, SKIPPED))]
    together = set()
    with ExitStack() as stack:
        for n, mutation in left.items():
            if found := places(tree, mutation.old):  # else another one has changed this line
                stack.enter_context(mutated(*found[0], mutation))
                together.add(n)
        failed = pytest(tree, tests)
    known = all("::" in name for name in failed)  # which test it was, no limit and no import
    for n, mutation in left.items():
        try_one(tree, n, mutation, failed if known and n in together else tests, report)


if __name__ == "__main__":
    main()
