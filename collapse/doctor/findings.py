"""What is to be said of a diagnosis, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from collapse.doctor.facts import Facts, Layer
from collapse.masks import keep_count

Severity = Literal["broken", "collapsed", "warning", "note"]
_ORDER: tuple[Severity, ...] = ("broken", "collapsed", "warning", "note")
# So many names are said; the table has all.
_NAMED = 6


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: a word for programs, e.g. ``no path``, ``empty``, ``ties``.
        severity: ``broken`` (no path, NaN, not the number that was asked for), ``collapsed`` (a
            layer or branch is gone), ``warning``, or ``note`` (a fact, nothing wrong by itself).
        layers: the layers or other tensors that it is about.
        text: a sentence.
    """

    kind: str
    severity: Severity
    layers: tuple[str, ...]
    text: str


def findings_of(d: Facts) -> list[Finding]:
    """All findings, the worst first."""
    makers = (_no_path, _not_finite, _empty, _dead, _target, _returned, _silent, _not_reached)
    found = [
        one for make in (*makers, _unmasked, _dead_weights, _constants, _ties) for one in make(d)
    ]
    return sorted(found, key=lambda finding: _ORDER.index(finding.severity))


def _short(name: str) -> str:
    return name.removesuffix(".weight")


def names(layers: Sequence[Layer | str]) -> str:
    """A few names, and how many more."""
    words = [_short(one if isinstance(one, str) else one.layer) for one in layers]
    more = f" and {len(words) - _NAMED:,} more" if len(words) > _NAMED else ""
    return ", ".join(words[:_NAMED]) + more


def _of(layers: Sequence[Layer]) -> tuple[str, ...]:
    return tuple(layer.layer for layer in layers)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _no_path(d: Facts) -> Iterator[Finding]:
    if d.connected and not d.silenced:
        return
    start = "the network is cut: no path of kept weights leads from the input to the output"
    empty = d.named("empty")
    cutting = [layer for layer in empty if layer.is_cut]
    if not d.connected_dense:
        text = "no path leads from the input to the output even when every weight is kept"
        cause = f": {_taken(d.without_gradient)}" if d.without_gradient else ""
        yield Finding("no path", "broken", tuple(d.without_gradient), f"{text}{cause}")
        return
    if d.silenced:
        zero = [name for name, whole in d.silent_norms.items() if whole]
        text = f"{start}; the weights of these normalisations are zero: {names(zero)}"
        yield Finding("no path", "broken", tuple(zero), text)
        return
    if d.empty_tables:
        text = f"{start}; the embedding {names(d.empty_tables)} is empty"
        yield Finding("no path", "broken", tuple(d.empty_tables), text)
        return
    if cutting:
        which = f"{names(cutting)} ({'a cut layer' if len(cutting) == 1 else 'cut layers'})"
        text = f"{start}; it is cut by {which}"
    elif empty:
        text = f"{start}; the empty branches cut it together: {names(empty)}"
        cutting = empty
    elif padded := [layer for layer in d.layers if 0 < layer.kept == layer.padding_only]:
        text = f"{start}; {names(padded)} keeps only kernel entries that see padding"
        cutting = padded
    elif d.frontier is not None:
        there, before = d.frontier
        text = (
            f"{start}, though no layer is empty: {_short(there)} keeps no weight of any unit that "
            f"the input reaches; what {_short(before)} keeps does not meet it"
        )
        cutting = [layer for layer in d.layers if layer.layer in d.frontier]
    else:
        text = f"{start}, though no layer is empty: the kept weights of its layers do not meet"
    yield Finding("no path", "broken", _of(cutting), text)


def _not_finite(d: Facts) -> Iterator[Finding]:
    if d.nonfinite:
        parts = [f"{name} ({count:,})" for name, count in d.nonfinite.items()]
        text = f"NaN or infinite values in {names(parts)}"
        yield Finding("not finite", "broken", tuple(d.nonfinite), text)


def _empty(d: Facts) -> Iterator[Finding]:
    empty = d.named("empty")
    bare = [layer for layer in empty if not layer.parameters]
    if bare:
        text = f"no units are left at all in {names(bare)}: a structured pruner went too far"
        yield Finding("empty", "collapsed", _of(bare), text)
    cut, branch = ([layer for layer in empty if layer.is_cut is side] for side in (True, False))
    for layers, what in ((cut, "cut layer"), (branch, "branch")):
        if layers:
            count = f"{len(layers):,} of {len(d.layers):,} layers"
            kinds = {"cut layer": "cut layers", "branch": "in branches"}[what]
            start = (
                f"{names(layers)} is empty (0 of {layers[0].parameters:,} weights), a {what}"
                if len(layers) == 1
                else f"{count} are empty, {kinds}: {names(layers)}"
            )
            end = _kept_alive(d, len(layers)) if what == "branch" and d.connected else ""
            yield Finding("empty", "collapsed", _of(layers), start + end)


def _kept_alive(d: Facts, count: int) -> str:
    through = f" through {names(d.bearing)}" if d.bearing else ""
    past = "it" if count == 1 else "them"
    return (
        f"; a shortcut past {past} keeps the network alive{through}, and accuracy may hardly show "
        "the loss"
    )


def _dead(d: Facts) -> Iterator[Finding]:
    dead = d.named("dead")
    if not dead:
        return
    parts = [f"{_short(layer.layer)} ({layer.kept:,} kept; {_why(layer)})" for layer in dead]
    verb = "keeps weights of which none lives" if len(dead) == 1 else "keep no living weight"
    end = _kept_alive(d, len(dead)) if d.connected else ""
    yield Finding("dead", "collapsed", _of(dead), f"{names(parts)} {verb}{end}")


def _why(layer: Layer) -> str:
    reasons = {
        "they see only padding": layer.padding_only,
        "no living input": layer.no_input,
        "no living output": layer.no_output,
    }
    return max(reasons, key=lambda reason: reasons[reason]) if any(reasons.values()) else "unused"


def _target(d: Facts) -> Iterator[Finding]:
    if d.target is None:
        return
    total, kept, wanted = _counted(d, d.target)
    gap = kept - wanted
    asked = f"compression {d.target:,.6g} keeps {wanted:,} of {total:,}"
    if abs(gap) <= len(d.layers):  # rounded in each layer
        exactly = "exactly" if gap == 0 else f"within rounding a layer ({gap:+,})"
        yield Finding("target", "note", (), f"as asked: {asked}, and {kept:,} are, {exactly}")
        return
    side = "more" if gap > 0 else "fewer"
    text = f"not as asked: {asked}, but {kept:,} are, {abs(gap):,} {side}"
    text += f" ({total / kept if kept else float('inf'):,.6g})"
    yield Finding("target", "broken", (), text)


def off_target(d: Facts) -> int:
    """How many weights more than asked for are kept."""
    if d.target is None:
        return 0
    _, kept, wanted = _counted(d, d.target)
    return kept - wanted


def _counted(d: Facts, target: float) -> tuple[int, int, int]:
    """Parameters, kept weights and how many were asked for, of the layers that were counted.

    Which were is not known: all of them, or, as ``prune`` does it, those that the input reaches, or
    those that there are masks of. It is whatever fits best.
    """
    masked = [layer for layer in d.layers if layer.layer not in d.unmasked]
    counts = []
    for layers in filter(None, (d.layers, d.reached, masked)):
        total = sum(layer.parameters for layer in layers)
        kept = sum(layer.kept for layer in layers)
        counts.append((total, kept, keep_count(total, target)))
    return min(counts, key=lambda count: abs(count[1] - count[2]))


def _returned(d: Facts) -> Iterator[Finding]:
    if d.baseline is None:
        return
    back = [layer for layer in d.layers if layer.returned]
    if back:
        count = sum(layer.returned or 0 for layer in back)
        text = f"{_plural(count, 'pruned weight')} of the baseline came back, in {names(back)}"
        yield Finding("returned", "warning", _of(back), text)
    fresh = [layer for layer in d.named("empty") if d.baseline.get(layer.layer)]
    if fresh:
        text = f"not empty in the baseline, and empty now: {names(fresh)}"
        yield Finding("newly empty", "collapsed", _of(fresh), text)
    before = sum(d.baseline.values())
    text = f"the baseline kept {before:,} weights, and {d.kept:,} are kept now"
    yield Finding("baseline", "note", (), text)


def _silent(d: Facts) -> Iterator[Finding]:
    whole = [name for name, everywhere in d.silent_norms.items() if everywhere]
    silent = d.named("silent")
    if not d.silent_norms or d.silenced:
        return
    text = (
        f"normalisations with weights of zero: {names(list(d.silent_norms))}"
        f"{', in all channels' if whole else ''}"
    )
    if silent:
        text += (
            f"; nothing passes {names(silent)} now (many networks start so and training opens "
            "them; after training they are pruned)"
        )
    yield Finding("silent", "note", (*d.silent_norms, *_of(silent)), text)


def _not_reached(d: Facts) -> Iterator[Finding]:
    if not d.connected_dense:
        return
    found = d.named("not reached")
    taken = [layer for layer in found if layer.layer in d.without_gradient]
    unused = [layer for layer in found if layer not in taken]
    if taken:
        text = f"not looked at, so not called collapsed: {_taken(taken)}"
        yield Finding("not reached", "note", _of(taken), text)
    if unused:
        text = f"never reached by the input in eval mode, so not called collapsed: {names(unused)}"
        yield Finding("not reached", "note", _of(unused), text)


def _taken(layers: Sequence[Layer | str]) -> str:
    """Why paths end behind layers that are used without their gradient."""
    return f"the forward takes what {names(layers)} gives without a gradient (.detach() or no_grad)"


def _unmasked(d: Facts) -> Iterator[Finding]:
    if d.unmasked:
        text = f"the masks hold no mask of {names(d.unmasked)}: looked at as in the network"
        yield Finding("unmasked", "note", tuple(d.unmasked), text)
    if d.also:
        text = f"the masks prune {names(d.also)} as well: no layers, so applied but not counted"
        yield Finding("also pruned", "note", tuple(d.also), text)


def _dead_weights(d: Facts) -> Iterator[Finding]:
    causes = {
        "see only padding at this input size": sum(layer.padding_only for layer in d.layers),
        "have no living input": sum(layer.no_input for layer in d.layers),
        "have no living output": sum(layer.no_output for layer in d.layers),
    }
    layers = [x for x in d.layers if x.kept > x.living and x.verdict != "not reached"]
    if layers and d.connected_dense:
        parts = [f"{count:,} {why}" for why, count in causes.items() if count]
        dead = sum(layer.kept - layer.living for layer in layers)
        text = f"{_plural(dead, 'dead weight')}: {', '.join(parts) or 'of unused units'}"
        yield Finding("dead weights", "note", _of(layers), text)
    padded = [layer for layer in layers if layer.padding_only]
    if padded:
        text = f"kernels that see only padding (a larger input would use them): {names(padded)}"
        yield Finding("padding", "note", _of(padded), text)


def _constants(d: Facts) -> Iterator[Finding]:
    fed = [x for x in d.layers if x.constant_in and x.verdict != "not reached"]
    if fed and d.connected:
        count = sum(layer.constant_in or 0 for layer in fed)
        text = (
            f"constants (a bias or a BatchNorm shift) still come from {_plural(count, 'dead unit')}"
            f", into {names(fed)}"
        )
        yield Finding("constants", "note", _of(fed), text)


def _ties(d: Facts) -> Iterator[Finding]:
    tied = [layer for layer in d.layers if layer.tied]
    if tied:
        parts = [f"{_short(layer.layer)} ({layer.tied:,} of {layer.kept:,})" for layer in tied]
        text = (
            f"ties: many kept weights of one magnitude in {names(parts)}; a threshold takes all "
            "of them or none"
        )
        yield Finding("ties", "note", _of(tied), text)
