"""The register of planted faults, and what an audit says of one.

A fault is

- *caught*: a row of the ledger beyond the tolerance, or a refusal in one line, names the place;
- *listed*: what happened is in the table of what lies outside the theory, with its place;
- *excusable*: nothing can tell, and a reason says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from collapse.conservation import Audit, audit
from collapse.errors import RequestError
from collapse.scores import SCORES

TOLERANCE = 1e-5


@dataclass(frozen=True)
class Case:
    """A network with a fault, or with a pruner that has one.

    Attributes:
        wrong: of (right score function, model, masks, inputs), in place of the pruner's own.
    """

    model: nn.Module
    batch: tuple[Tensor, Tensor]
    pruner: str = "snip"
    mode: str = "eval"
    wrong: Callable[..., Any] | None = None
    masks: dict[str, Tensor] | None = None


@dataclass(frozen=True)
class Fault:
    """How a fault is planted, and what the audit has to say of it.

    Attributes:
        place: pattern of ``identity at place`` of a row (caught), of ``operation in place``
            (listed), or of the refusal.
        reason: why a mathematician excuses that it passes.
    """

    name: str
    plant: Callable[[], Case]
    verdict: str
    place: str
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """What the audit said: its verdict, whether it named the place, and its words."""

    verdict: str
    named: bool
    said: str


FAULTS: list[Fault] = []

Plant = Callable[[], Case]


def caught(place: str) -> Callable[[Plant], Plant]:
    return _register("caught", place)


def listed(place: str) -> Callable[[Plant], Plant]:
    return _register("listed", place)


def excusable(reason: str) -> Callable[[Plant], Plant]:
    return _register("excusable", "", reason)


def _register(verdict: str, place: str, reason: str = "") -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        assert plant.__doc__ is not None
        FAULTS.append(Fault(plant.__doc__.strip().rstrip("."), plant, verdict, place, reason))
        return plant

    return register


def outcome(fault: Fault) -> Outcome:
    """Audit a fault."""
    torch.manual_seed(0)
    try:
        found = audited(fault.plant())
    except RequestError as error:
        return Outcome("caught", bool(re.search(fault.place, str(error))), str(error))
    ledger = found.ledger.sort_values("residual", ascending=False)
    beyond = ledger[~(ledger["residual"] <= TOLERANCE)]
    rows = [f"{row['identity']} at {row['place']}" for row in beyond.to_dict("records")]
    verdict = "caught" if rows else "listed"
    if not rows:
        rows = [f"{r['operation']} in {r['place']}" for r in found.outside.to_dict("records")]
    if not rows:
        return Outcome("unseen", True, "")
    return Outcome(verdict, any(re.search(fault.place, row) for row in rows), "; ".join(rows[:4]))


def audited(case: Case) -> Audit:
    """The audit of a case; a wrong score function stands in the registry meanwhile."""
    before = dict(SCORES)
    try:
        if case.wrong is not None:
            wrong, right = case.wrong, SCORES.get(case.pruner)
            SCORES[case.pruner] = lambda *arguments: wrong(right, *arguments)
        return audit(case.model, case.batch, pruner=case.pruner, mode=case.mode, masks=case.masks)
    finally:
        SCORES.clear()
        SCORES.update(before)


def holds(fault: Fault, seen: Outcome) -> bool:
    """Whether the audit said of a fault what it has to say."""
    if fault.verdict == "excusable":
        return seen.verdict == "unseen" and bool(fault.reason)
    return seen.verdict == fault.verdict and seen.named
