"""From measured facts to sentences: nothing here that the numbers do not say.

Layers stand between backticks. Compressions are rounded to the side on which the sentence stays
true: "to" is rounded down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from analysis.report.facts import Facts, Found, Lost, Moment, Outcome
from analysis.report.numbers import counted, down, listed, near, percent


@dataclass(frozen=True)
class Verdict:
    """The first screen.

    Attributes:
        headline: which pruner goes furthest, which least far.
        lines: of each pruner its name and what it does to this network.
        warnings: why the headline may not be trusted.
        caveats: what holds of it whatever was found.
    """

    headline: str
    lines: list[tuple[str, str]]
    warnings: list[str]
    caveats: list[str]


def verdict(facts: Facts) -> Verdict:
    """What the facts come to.

    Example:
        >>> found = Found(100.0, 101.0, 100.0, None, "closed form", 1)
        >>> one = Outcome("snip", False, (found,))
        >>> verdict(Facts(900, 3, 300.0, 1, (one,), {})).headline
        'SNIP leaves every layer a weight to 100×, and a path from input to output to 100×.'
    """
    lines = [(one.name, _line(one, facts)) for one in facts.outcomes]
    return Verdict(_headline(facts), lines, _warnings(facts), _caveats(facts))


def _headline(facts: Facts) -> str:
    asked = [one for one in facts.outcomes if not one.certified]
    if not asked:
        return "There is no verdict: no critical compression could be computed."
    alive = _ranked(asked, lambda one: one.critical)
    linked = _ranked(asked, lambda one: one.connected or 0.0)
    among = f"Of {counted(len(asked), 'pruner')}" + " that could be computed" * bool(facts.missing)
    if len(asked) == 1:
        one = asked[0]
        return f"{one.name} {_alive(one, facts)}, and {_linked(one, facts)}."
    if len(alive) == 1 and len(linked) == 1:
        return (
            f"{among}, all leave every layer a weight to {_to(alive[0][0].critical, facts)}, and "
            f"{_linked(linked[0][0], facts)}."
        )
    best, longest = _names(alive[0]), _names(linked[0])
    if best == longest:
        verb = "go" if len(alive[0]) > 1 else "goes"
        first = (
            f"{among}, {best} {verb} furthest: every layer keeps a weight to "
            f"{_to(alive[0][0].critical, facts)}, and {_linked(linked[0][0], facts)}."
        )
    else:
        verb = "leave" if len(linked[0]) > 1 else "leaves"
        keep = "keep" if len(alive[0]) > 1 else "keeps"
        first = (
            f"{among}, {longest} {verb} the network connected longest, to "
            f"{_to(linked[0][0].connected, facts)}; {best} {keep} every layer alive longest, to "
            f"{_to(alive[0][0].critical, facts)}."
        )
    return first + _first_to_go(alive, linked, facts)


def _first_to_go(alive: list[list[Outcome]], linked: list[list[Outcome]], facts: Facts) -> str:
    words = []
    lag = _names(alive[-1]) if len(alive) > 1 else ""
    if len(linked) > 1 and lag == _names(linked[-1]) and linked[-1][0].connected is not None:
        low, end = down(alive[-1][0].critical), down(linked[-1][0].connected)
        if low == end:
            verb = "are" if len(alive[-1]) > 1 else "is"
            return (
                f" {lag} {verb} the first to empty a layer and to cut the network, beyond {low}×."
            )
    if len(linked) > 1:
        until = linked[-1][0].connected
        at = "before anything is pruned" if until is None else f"beyond {down(until)}×"
        words.append(f"The first to cut it: {_names(linked[-1])}, {at}.")
    if len(alive) > 1:
        at = f"beyond {down(alive[-1][0].critical)}×"
        words.append(f"The first to empty a layer: {_names(alive[-1])}, {at}.")
    return "".join(f" {one}" for one in words)


def _ranked(outcomes: list[Outcome], value: Callable[[Outcome], float]) -> list[list[Outcome]]:
    """The furthest first; those whose numbers read the same stand together."""
    groups: dict[str, list[Outcome]] = {}
    for one in sorted(outcomes, key=value, reverse=True):
        groups.setdefault(down(value(one)), []).append(one)
    return list(groups.values())


def _names(outcomes: list[Outcome]) -> str:
    return listed([one.name for one in outcomes], 6)


def _to(compression: float | None, facts: Facts) -> str:
    if compression is None:
        return "no compression at all"
    return f"{down(compression)}×{', the maximum' * _at_maximum(compression, facts)}"


def _at_maximum(compression: float, facts: Facts) -> bool:
    return compression >= facts.maximal * (1 - 1e-12)


def _alive(one: Outcome, facts: Facts) -> str:
    seeds = f" with each of {facts.seeds} seeds" * (facts.seeds > 1)
    return f"leaves every layer a weight to {_to(one.critical, facts)}{seeds}"


def _linked(one: Outcome, facts: Facts) -> str:
    if one.connected is None:
        return "no path from input to output at any compression"
    return f"a path from input to output to {_to(one.connected, facts)}"


def _line(one: Outcome, facts: Facts) -> str:
    """One pruner: how far every layer lives, which goes then, and whether the network does."""
    worst = min(one.found, key=lambda found: found.critical)
    text = _alive(one, facts).replace("leaves", "Leaves", 1)
    lost = [found for found in one.found if found.lost is not None]
    if early := _early(one):
        layer, at = early
        text += f", but not at every compression below: {_layer(layer)} was empty at {near(at)}×"
        return f"{text}{_rest(one, facts)}."
    if not lost or _at_maximum(one.critical, facts):  # beyond it some layer has to be empty
        seen = "" if _at_maximum(one.critical, facts) else "; no layer was seen to go"
        return f"{text}{seen}{_rest(one, facts)}."
    if len(one.found) > 1:
        return f"{text}; first to go {_over_seeds(lost, len(one.found))}{_rest(one, facts)}."
    assert worst.lost is not None
    text += f"; beyond that {_layer(worst.lost)} is empty"
    if worst.lost.cut and one.connected is not None and one.connected == one.critical:
        return f"{text}, and with it the last path."
    return f"{text}{_rest(one, facts)}."


def _early(one: Outcome) -> tuple[Lost, float] | None:
    """The layer that was empty, and where, at a compression at which all seeds' had been said to
    live: for an iterative pruner collapse is not monotone in compression.
    """
    seen = [
        (found.collapse, found.lost)
        for found in one.found
        if found.lost is not None and found.collapse is not None and found.collapse < one.critical
    ]
    if not seen:
        return None
    at, lost = min(seen, key=lambda pair: pair[0])
    return lost, at


def _layer(lost: Lost) -> str:
    kind = {True: "the cut layer ", False: "the branch layer ", None: ""}[lost.cut]
    return f"{kind}`{lost.layer}`"


def _over_seeds(lost: list[Found], seeds: int) -> str:
    layers = Counter(_layer(found.lost) for found in lost if found.lost is not None)
    words = [f"is {layer} ({count} of {seeds} seeds)" for layer, count in layers.most_common()]
    return " or ".join(word.removeprefix("is ") if i else word for i, word in enumerate(words))


def _rest(one: Outcome, facts: Facts) -> str:
    """What becomes of the network when a layer is gone, or before one is."""
    until = one.connected
    if until is None:
        return ". No path from input to output was found at any compression"
    if until < one.critical:
        return f". The last path is gone before: it is left to {down(until)}× only"
    if until == one.critical:
        return f". A path from input to output is left as far, to {down(until)}×"
    return f". The network stays connected: a path is left to {_to(until, facts)}"


def _warnings(facts: Facts) -> list[str]:
    found = [f"Wrong already before pruning: {text}." for text in facts.broken[:3]]
    if facts.unfollowed:
        found.append(
            f"No signal could be followed through this network: {facts.unfollowed}. What stands "
            "here counts weights and paths, whatever the network computes."
        )
    for why in dict.fromkeys(why for _, why in facts.missing):
        names = listed([name for name, other in facts.missing if other == why], 6)
        found.append(f"Not computed, and in no comparison here: {names}. {why}.")
    return found


def _caveats(facts: Facts) -> list[str]:
    found = []
    tested = [one.name for one in facts.outcomes if any(f.evidence == "search" for f in one.found)]
    if tested:
        found.append(f"Found by tests, not proved: {listed(tested, 6)}.")
    if facts.seeds == 1 and facts.outcomes:
        found.append("One seed: another initialisation gives other numbers.")
    if facts.seeds > 1:
        found.append(f"Compressions are the lowest of {facts.seeds} seeds.")
    return found


def reason(one: Outcome, facts: Facts) -> str:
    """Why a pruner empties the layer that it does: sizes and scores, as they were measured."""
    if _at_maximum(one.critical, facts):
        if early := _early(one):
            layer, at = early
            return (
                f"Every layer keeps a weight at the maximum, but `{layer.layer}` did not at "
                f"{near(at)}×: in several iterations collapse is not monotone in compression."
            )
        return "Every layer keeps a weight to the maximum."
    lost = next((found.lost for found in one.found if found.lost is not None), None)
    if lost is None:
        return "No layer was seen to collapse."
    words = [
        f"`{lost.layer}` holds {counted(lost.parameters, 'weight')} "
        f"({percent(lost.share)} of all): {_place(lost.larger, lost.smaller)}."
    ]
    factor = one.scores.factor
    if factor is not None and factor < 1.5:
        words.append(
            "Mean scores are nearly the same in all layers (within a factor of "
            f"{near(factor)}), so that sizes decide."
        )
    elif lost.lower is not None:
        lower = counted(lost.lower, "layer") if lost.lower else "no layer"
        words.append(f"In the dense network {lower} {_has(lost.lower)} a lower mean score.")
    if one.found[0].iterations == 1:
        words.append("Scored once, the layer whose best score is lowest goes first.")
    if lost.cut is False:
        words.append(
            "It lies in a branch: what is conserved is the sum over a whole cut, and the parallel "
            "connections may carry all of it."
            if one.pruner == "synflow"
            else "It lies in a branch: parallel connections carry on without it."
        )
    return " ".join(words)


def _has(number: int) -> str:
    return "has" if number < 2 else "have"


def _place(larger: int, smaller: int) -> str:
    if not larger and not smaller:
        return "all layers are equally large"
    if not larger:
        return "no layer is larger"
    if not smaller:
        return "no layer is smaller"
    verb = "is" if larger == 1 else "are"
    return f"{counted(larger, 'layer')} {verb} larger, {smaller:,} smaller"


def at_compression(
    compression: float, label: str, moments: tuple[Moment, ...], facts: Facts
) -> str:
    """What is left at one compression: the sentence beneath the slider."""
    own = [one.name for one in facts.outcomes if not one.certified for f in one.found[:1]
           if f.critical == compression]  # fmt: skip
    text = f"At {label}×"
    if own:
        word = "compressions" if len(own) > 1 else "compression"
        text += f", the critical {word} of {listed(own, 6)}"
        text += " with the first seed" * (facts.seeds > 1)
    alive = [one.name for one in moments if not one.empty and not one.pathless]
    parts = []
    if alive:
        some = "all pruners" if len(alive) == len(moments) > 1 else listed(alive, 6)
        parts.append(f"{some} {'leave' if len(alive) > 1 else 'leaves'} every layer a weight")
    for one in moments:
        if one.name not in alive:
            parts.append(_moment(one, facts))
    return f"{text}: {'; '.join(parts)}."


def _moment(one: Moment, facts: Facts) -> str:
    """One pruner that has emptied a layer, or that has cut the network without."""

    def of(count: int) -> str:
        return f" (with {count} of {facts.seeds} seeds)" if count < facts.seeds else ""

    most = max(one.empty.values(), default=0)
    kinds = {True: "cut layer", False: "branch", None: "not reached"}
    names = [f"`{layer}` ({kinds[facts.cuts.get(layer)]})" if layer in facts.cuts else f"`{layer}`"
             for layer in one.empty]  # fmt: skip
    text = f"{one.name} has emptied {listed(names, 3)}{of(most)}" if names else one.name
    if one.pathless:
        joint = ", and" if names else " leaves every layer a weight, but"
        return f"{text}{joint} no kept weight is on a path{of(one.pathless)}"
    return f"{text}, but a path is left"
