"""Which numbers a search tests: the same from any number of processes, and no other way round."""

from __future__ import annotations

import random

import pytest

from collapse.critical.course import Course, Verdict, bisected
from collapse.critical.trials import verdicts
from collapse.options import TOLERANCE


def _network(draw: random.Random, total: int) -> dict[int, Verdict]:
    """A pruner whose collapse is not monotone in compression, nor is what stays connected."""
    boundary, path = draw.randint(2, total), draw.randint(1, total)
    answers = {}
    for keep in range(1, total + 1):
        odd = draw.random() < 0.1
        survives = (keep >= boundary) != odd
        answers[keep] = Verdict(survives, survives or (keep >= path) != odd, draw.random() < 0.3)
    return answers


def _directly(answers: dict[int, Verdict], course: Course) -> tuple[list[int], int | None]:
    """The search as a person would write it down, one test after the other."""
    tested: list[int] = []

    def test(keep: int) -> Verdict:
        if keep >= course.total:
            return Verdict(True, True, True)
        if keep not in tested:
            tested.append(keep)
        return answers[keep]

    bisected(lambda keep: test(keep).survives, course.least, course.total, course.tolerance)
    critical = min([keep for keep in tested if answers[keep].survives], default=course.total)
    factor = 2**0.5
    best = course.least in tested and answers[course.least]
    steps = range(1, course.scan + 1)
    below = [round(critical * factor**i) for i in reversed(steps)]
    for keep in [*below, *(round(critical / factor**i) for i in steps)]:
        if not course.least < keep < course.total:
            continue
        if not test(keep).survives and best and best.survives and best.whole:
            break
    if not course.paths:
        return tested, None
    path = bisected(
        lambda keep: test(keep).connected is True, course.least, course.total, course.tolerance
    )
    return tested, min([path, *(keep for keep in tested if answers[keep].connected)])


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_any_number_of_processes_finds_what_one_test_after_the_other_finds(processes: int) -> None:
    draw = random.Random(processes)
    saved = 0
    for _ in range(60):
        total = draw.randint(3, 3000)
        answers = _network(draw, total)
        course = Course(
            total,
            least=draw.randint(1, min(5, total)),
            scan=draw.randint(0, 8),
            tolerance=draw.choice([0.0, 0.0, 0.2]),
            paths=draw.random() < 0.7,
        )
        known: dict[int, Verdict] = {}
        turns = 0
        while numbers := course.ahead(known, processes):
            assert len(set(numbers)) == len(numbers) <= processes
            assert not set(numbers) & set(known)
            # Who is told what last does not matter: some processes are slower than others.
            done = [numbers[0], *draw.sample(numbers[1:], draw.randint(0, len(numbers) - 1))]
            known |= {keep: answers[keep] for keep in done}
            turns += 1
        tested, connected = _directly(answers, course)
        assert course.found(known) == (tested, connected)
        assert turns <= len(tested)
        saved += len(tested) - turns
    assert (saved > 0) is (processes > 1)


def test_all_tests_of_a_scan_are_seen_ahead() -> None:
    """Where the maximum is reached nothing of the scan depends on what is found before."""
    course = Course(10**6, least=10, scan=8, tolerance=0.0, paths=False)
    known = {10: Verdict(True, None, True)}
    scan = [round(10 * 2 ** (i / 2)) for i in range(8, 0, -1)]
    assert course.ahead(known, 100) == scan
    assert course.ahead(known | {scan[0]: Verdict(False, None, False)}, 100) == []
    assert course.expected({}) == course.expected(known) == 9
    # 11.5 is halved until a millionth is left.
    assert course.expected({10: Verdict(False, None, False)}) == 1 + 2 * 8 + 24


def test_what_cannot_be_pruned_is_not_tested() -> None:
    course = Course(4, least=4, scan=8, tolerance=0.0, paths=True)
    assert course.ahead({}, 3) == []
    assert course.found({}) == ([], 4)
    assert verdicts({}) == {}


@pytest.mark.parametrize(("boundary", "tests"), [(9_000, 27), (23_301_123, 19)])
def test_no_more_digits_are_searched_for_than_are_shown(boundary: int, tests: int) -> None:
    course = Course(25_000_000, least=54, scan=0, tolerance=TOLERANCE, paths=False)
    known: dict[int, Verdict] = {}
    while numbers := course.ahead(known, 1):
        known[numbers[0]] = Verdict(numbers[0] >= boundary, None, False)
    survived = min(keep for keep in known if keep >= boundary)
    collapsed = max(keep for keep in known if keep < boundary)
    assert survived - collapsed <= max(1, 1e-4 * boundary)
    assert (survived == boundary) is (boundary < 10_000)
    assert len(known) <= tests
    assert len(known) + 2 >= course.expected(known) - 1 >= len(known) - 3


def test_a_path_that_any_test_has_seen_counts() -> None:
    """Of an iterative pruner the path search may end above what the other search came by."""
    course = Course(total=16, least=2, scan=0, tolerance=0.0, paths=True)
    known = {k: Verdict(k >= 4, k == 4 or k >= 8, False) for k in range(2, 16)}
    found = course.found(known)
    assert bisected(lambda k: known[k].connected, 2, 16) == 8
    assert found.connected_kept == 4
