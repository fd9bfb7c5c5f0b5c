"""The page's sentences against the network itself: every number and every claim, pruned anew."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.report import at_compression, facts_of, reason, verdict
from analysis.report.facts import Facts, Found, Lost, Moment, Outcome, Scores
from analysis.report.gather import gather
from analysis.report.numbers import apart, down, near, up
from analysis.resumable import Resources
from collapse.connectivity import paths
from collapse.masks import collapsed, dense
from collapse.options import Execution, Pruning, Setup
from collapse.problem import Problem, prepare
from collapse.pruning import prune

NETWORKS = """
import random
import torch
from torch import nn

class Net(nn.Module):
    '''A chain of blocks: plain, two summed branches, a skip, or two branches side by side.'''
    def __init__(self, seed):
        super().__init__()
        draw = random.Random(seed)
        wide = draw.choice([3, 5, 8])
        kinds = ["plain", "sum", "skip", "joined"]
        self.kinds = [draw.choice(kinds) for _ in range(draw.randint(1, 3))]
        self.stem = nn.Linear(6, wide, bias=draw.random() < 0.5)
        self.one, self.two = nn.ModuleList(), nn.ModuleList()
        for kind in self.kinds:
            more = draw.randint(2, 9)
            self.one.append(nn.Linear(wide, wide if kind == "skip" else more))
            self.two.append(nn.Linear(wide, more) if kind in ("sum", "joined") else nn.Identity())
            wide = {"skip": wide, "joined": 2 * more}.get(kind, more)
        self.head = nn.Linear(wide, 10)
        for layer in self.modules():
            if isinstance(layer, nn.Linear) and draw.random() < 0.3:
                nn.init.normal_(layer.weight, std=10 ** draw.uniform(-2, 0))
    def forward(self, x):
        x = self.stem(x.flatten(1)[:, :6]).relu()
        for kind, one, two in zip(self.kinds, self.one, self.two):
            a = one(x)
            x = {"plain": lambda: a, "sum": lambda: a + two(x), "skip": lambda: a + x,
                 "joined": lambda: torch.cat([a, two(x)], 1)}[kind]().relu()
        return self.head(x)
"""
PRUNERS = {"Random": "random", "Magnitude": "magnitude", "SNIP": "snip", "GraSP": "grasp",
           "SynFlow": "synflow"}  # fmt: skip
ALL = tuple(PRUNERS.values())
NUMBER = r"([\d,]+(?:\.\d+)?(?:e\d+)?)×"


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("networks")
    factories = "".join(f"\ndef net{i}(): return Net({i})" for i in range(30))
    (folder / "verdict_networks.py").write_text(NETWORKS + factories)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def _value(text: str) -> float:
    return float(text.replace(",", ""))


class Oracle:
    """A network that is pruned anew for each claim."""

    def __init__(self, setup: Setup) -> None:
        self.problem: Problem = prepare(setup, 0, labelled=True)
        self.total = sum(mask.numel() for mask in self.problem.dense().values())

    def left(self, name: str, compression: float) -> tuple[set[str], bool]:
        """The empty layers, and whether a path is left."""
        options = Pruning(pruner=PRUNERS[name], mode="train")
        masks = prune(self.problem, options=options, compression=compression).masks
        alive, arrives = paths(self.problem.model, masks, self.problem.example)
        assert arrives == any(bool(mask.any()) for mask in alive.values())
        return {layer.removesuffix(".weight") for layer in collapsed(masks)}, arrives

    def is_cut(self, layer: str) -> bool:
        masks = dense(self.problem.model)
        masks[f"{layer}.weight"] = masks[f"{layer}.weight"] & False
        return not paths(self.problem.model, masks, self.problem.example)[1]

    def check_line(self, name: str, text: str) -> tuple[float, float | None]:
        """Every word of a pruner's line; its two numbers."""
        maximum = self.total / len(self.problem.dense())
        found = re.match(rf"Leaves every layer a weight to {NUMBER}(, the maximum)?", text)
        assert found
        alive, rest = _value(found[1]), text[found.end() :]
        assert not self.left(name, alive)[0]
        assert (found[2] is not None) == (down(maximum) == found[1])
        lost = re.match(r"; beyond that the (cut|branch) layer `(.*?)` is empty", rest)
        early = re.match(
            r", but not at every compression below: the (cut|branch) layer `(.*?)` was empty at "
            rf"{NUMBER}", rest,
        )  # fmt: skip
        if early:
            rest = rest[early.end() :]
            assert self.is_cut(early[2]) == (early[1] == "cut")
            meant = [keep for keep in range(1, self.total) if near(self.total / keep) == early[3]]
            assert any(early[2] in self.left(name, self.total / keep)[0] for keep in meant)
            assert _value(early[3]) <= alive
        elif lost:
            rest = rest[lost.end() :]
            assert self.is_cut(lost[2]) == (lost[1] == "cut")
            beyond = self.first_beyond(alive, lambda c: bool(self.left(name, c)[0]), name)
            assert lost[2] in self.left(name, beyond)[0]
        else:
            assert found[2]  # nothing goes before the maximum
        if rest == ", and with it the last path.":
            assert lost
            assert self.left(name, alive)[1]
            assert not self.left(name, beyond)[1]
            return alive, alive
        until = re.fullmatch(
            rf"\. (A path from input to output is left as far, to|The network stays connected: a "
            rf"path is left to|The last path is gone before: it is left to) {NUMBER}"
            r"(?:, the maximum)?(?: only)?\.",
            rest,
        )
        assert until, rest
        connected = _value(until[2])
        assert self.left(name, connected)[1]
        if connected < float(down(maximum).replace(",", "")):
            self.first_beyond(connected, lambda c: not self.left(name, c)[1], name)
        order = {"A": connected == alive, "The n": connected >= alive, "The l": connected <= alive}
        assert next(holds for start, holds in order.items() if until[1].startswith(start))
        return alive, connected

    def first_beyond(self, value: float, holds, name: str) -> float:
        """A claim that something ends at a number: it does within the number's last digit."""
        kept = int(self.total / value + 1e-9)
        for keep in range(kept, 0, -1):
            if self.total / keep >= value and holds(self.total / keep):
                last = self.total / (keep + 1)
                assert down(last) == down(value), (name, value, last)
                return self.total / keep
        raise AssertionError(f"{name}: nothing happens beyond {value}")

    def check_moment(self, compression: float, text: str, label: str) -> None:
        """Every part of the sentence beneath the slider."""
        head, _, body = text.removesuffix(".").partition(": ")
        assert head.startswith(f"At {label}×")
        for part in body.split("; "):
            plain = re.sub(r"`[^`]*` \((?:cut layer|branch)\)", "", part)
            for name in [n for n in PRUNERS if re.search(rf"\b{n}\b", plain)]:
                empty, arrives = self.left(name, compression)
                said = re.findall(r"`(.*?)` \((cut layer|branch)\)", part)
                assert bool(empty) == ("has emptied" in part)
                assert {layer for layer, _ in said} <= empty
                more = re.search(r"and (\d+) more", part)
                assert len(empty) == len(said) + (int(more[1]) if more else 0)
                assert arrives == ("no kept weight is on a path" not in part)
                for layer, kind in said:
                    assert self.is_cut(layer) == (kind == "cut layer")


def _check(number: int, pruners: tuple[str, ...]) -> None:
    setup = Setup(f"verdict_networks:net{number}", samples_per_class=1)
    report = gather(
        setup, pruners=pruners, resources=Resources(Execution(Path("runs"), quiet=True))
    )
    facts = facts_of(report)
    assert facts.unfollowed == ""
    says, oracle = verdict(facts), Oracle(setup)
    ends = {name: oracle.check_line(name, text) for name, text in says.lines if name in PRUNERS}
    missing = {name for name, _ in facts.missing}  # a dead network has no gradient to score
    assert set(ends) | missing == {name for name, one in PRUNERS.items() if one in pruners}
    assert not set(ends) & missing
    assert all(any(name in text for text in says.warnings) for name in missing)
    _check_headline(says.headline, ends)
    labels = apart([compression for compression, _ in facts.moments])
    for label, (compression, moments) in zip(labels, facts.moments, strict=True):
        oracle.check_moment(compression, at_compression(compression, label, moments, facts), label)
    for one in facts.outcomes:
        _check_reason(reason(one, facts), report.layers)


def _check_headline(text: str, ends: dict[str, tuple[float, float | None]]) -> None:
    """Who is named with which number, against the lines."""
    alive = {name: end[0] for name, end in ends.items()}
    path = {name: end[1] or 0.0 for name, end in ends.items()}
    for pattern, values, pick in (
        (rf"pruners, (.*?) go(?:es)? furthest: every layer keeps a weight to {NUMBER}", alive, max),
        (rf"pruners, (.*?) leaves? the network connected longest, to {NUMBER}", path, max),
        (rf"; ((?:\w| |,)*?) keeps? every layer alive longest, to {NUMBER}", alive, max),
        (rf"The first to cut it: (.*?), beyond {NUMBER}", path, min),
        (rf"The first to empty a layer: (.*?), beyond {NUMBER}", alive, min),
        (rf"\. ([^.]*?) (?:is|are) the first to empty a layer .*?, beyond {NUMBER}", alive, min),
        (rf"\. ([^.]*?) (?:is|are) the first to empty a layer .*?, beyond {NUMBER}", path, min),
        (rf"(all) leave every layer a weight to {NUMBER}", alive, max),
        (rf"a path from input to output to {NUMBER}()", path, max),
    ):  # fmt: skip
        if (found := re.search(pattern, text)) is None:
            continue
        number = _value(next(g for g in found.groups() if g and g[0].isdigit()))
        assert number == pick(values.values())
        if found[1] and not found[1][0].isdigit() and found[1] != "all":
            names = set(re.split(r", | and ", found[1]))
            assert names == {name for name, value in values.items() if value == number}


def _check_reason(text: str, sizes: dict[str, int]) -> None:
    found = re.match(r"`(.*?)` holds ([\d,]+) weights? \((.*?) % of all\): (.*?)\.", text)
    if found is None:
        assert text == "Every layer keeps a weight to the maximum."
        return
    size = sizes[f"{found[1]}.weight"]
    larger, smaller = (sum(f(other) for other in sizes.values())
                       for f in (lambda o: o > size, lambda o: o < size))  # fmt: skip
    assert _value(found[2]) == size
    assert found[3] == near(100 * size / sum(sizes.values()))
    counts = [int(n) for n in re.findall(r"\d+", found[4])]
    assert counts in ([larger, smaller], [])
    if not counts:
        words = {"no layer is larger": larger, "no layer is smaller": smaller}
        assert words.get(found[4], larger + smaller) == 0


@pytest.mark.parametrize(
    "number", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 30))]
)
def test_no_sentence_contradicts_the_network(
    number: int, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _check(number, ALL if number % 12 == 1 else ALL[:-1])


# --- Facts that no network has to be found for ------------------------------------------------

CUT, BRANCH = Lost("head", True, 640, 0.05, 2, 3, 0), Lost("side", False, 64, 0.005, 4, 1, 2)


def _facts(*outcomes: Outcome, **more: object) -> Facts:
    known = Facts(12_000, 6, 2000.0, 1, outcomes, {"head": True, "side": False})
    return replace(known, **more)  # type: ignore[arg-type]


def _one(pruner: str, critical: float, collapse: float | None, until: float | None, lost=None):
    scores = Scores(1.0, 1.0, 50.0)
    return Outcome(pruner, False, (Found(critical, collapse, until, lost, "search", 100),), scores)


def test_collapse_that_is_not_monotone_is_said() -> None:
    one = _one("synflow", 105.4, 74.5, 2000.0, BRANCH)
    ((_, text),) = verdict(_facts(one)).lines
    assert "to 105×, but not at every compression below" in text
    assert "the branch layer `side` was empty at 74.5×" in text
    assert "stays connected: a path is left to 2,000×, the maximum" in text


def test_a_collapse_below_the_maximum_is_said_and_one_above_the_least_seed_is_none() -> None:
    facts = _facts(_one("synflow", 2000.0, 200.0, 2000.0, BRANCH))
    ((_, text),) = verdict(facts).lines
    assert "to 2,000×, the maximum, but not at every compression below: the branch" in text
    assert "at the maximum, but `side` did not at 200×" in reason(facts.outcomes[0], facts)
    found = (Found(25.5, 30.0, 25.5, CUT, "search", 3), Found(40.0, 27.2, 40.0, CUT, "search", 3))
    facts = _facts(Outcome("snip", False, found), seeds=2)
    ((_, text),) = verdict(facts).lines
    assert "compression below" not in text  # 27.2 is above 25.5


def test_without_results_there_is_no_verdict() -> None:
    says = verdict(_facts(missing=(("SNIP", "scores are not finite"),)))
    assert says.headline == "There is no verdict: no critical compression could be computed."
    assert says.lines == []
    assert says.warnings == [
        "Not computed, and in no comparison here: SNIP. scores are not finite."
    ]


def test_a_network_that_is_cut_before_pruning_is_said() -> None:
    says = verdict(_facts(_one("snip", 100.0, 101.0, None, CUT), broken=("layer 'head' is empty",)))
    assert says.warnings == ["Wrong already before pruning: layer 'head' is empty."]
    assert "no path from input to output at any compression" in says.headline
    assert "No path from input to output was found at any compression" in says.lines[0][1]


def test_seeds_that_differ_are_counted() -> None:
    found = (Found(90.0, 91.0, 90.0, CUT, "closed form", 1),
             Found(120.0, 121.0, 500.0, BRANCH, "closed form", 1))  # fmt: skip
    facts = _facts(Outcome("snip", False, found), seeds=2)
    ((_, text),) = verdict(facts).lines
    assert "to 90× with each of 2 seeds; first to go is" in text
    assert "the cut layer `head` (1 of 2 seeds)" in text
    assert "the branch layer `side` (1 of 2 seeds)" in text
    moment = Moment("SNIP", {"side": 1}, 0)
    assert "SNIP has emptied `side` (branch) (with 1 of 2 seeds)" in at_compression(
        100.0, "100", (moment,), facts
    )


def test_numbers_are_rounded_to_the_side_on_which_they_stay_true() -> None:
    assert [down(166.6), up(166.2), near(166.6), down(3.7079)] == ["166", "167", "167", "3.70"]
    assert [down(99.96), up(99.96), down(33.0), near(7.7e-7)] == ["99.9", "100", "33", "7.70e-7"]
    assert apart([1.0, 26.548, 26.551]) == ["1", "26.54", "26.55"]
