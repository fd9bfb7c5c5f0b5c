"""What to do about a diagnosis: a compression that is safe, and a pruner that keeps it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence, Set

from collapse.doctor.facts import Facts
from collapse.doctor.findings import Finding, off_target
from collapse.masks import apportion


def advice_on(d: Facts, findings: Sequence[Finding]) -> list[str]:
    """Sentences, the most important first."""
    kinds = {finding.kind for finding in findings}
    return [*_collapsed(d, kinds), *_next(d), *_others(d, kinds)]


def safe_within_layers(sizes: Sequence[int]) -> float:
    """The largest compression at which the layer scope leaves a weight in every layer.

    It holds for every pruner, because there only sizes decide how many each layer keeps.
    """
    total = sum(sizes)
    fewest = bisect_left(
        range(total + 1), True, lo=len(sizes), key=lambda keep: min(apportion(sizes, keep)) > 0
    )
    return total / fewest


def _collapsed(d: Facts, kinds: Set[str]) -> Iterator[str]:
    if not kinds & {"no path", "empty", "dead"} or not d.connected_dense or d.silenced:
        return
    reached = [layer for layer in d.layers if layer.is_cut is not None and layer.parameters]
    sizes = [layer.parameters for layer in reached]
    if not sizes:
        return
    asked = d.target or d.compression
    highest = sum(sizes) / len(sizes)
    if highest < asked < math.inf:
        yield (
            f"at compression {asked:,.6g} no pruner can keep a weight in every layer: the maximum "
            f"is {highest:,.6g} ({sum(sizes):,} weights in {len(sizes):,} layers)"
        )
    safe = safe_within_layers(sizes)
    chosen = min(asked, safe)
    prune = f"python -m collapse.pruning {d.network} --pruner synflow --out masks.safetensors"
    yield (
        f"safe for every layer: up to compression {_down(safe)} ranking within each layer leaves "
        f"none empty, by any pruner:\n    {prune} --compression {_down(chosen)} --scope layer"
    )
    chain = all(layer.is_cut for layer in reached)
    what = (
        f"a living weight in every layer up to {_down(highest)}, the maximum (each is a cut layer)"
        if chain
        else "an input→output path; a branch may still go"
    )
    yield (
        f"ranking all layers together, SynFlow with the certified schedule keeps {what}, where the "
        "network is homogeneous (ReLU, BatchNorm, pooling):\n    "
        f"{prune} --compression {_down(min(asked, highest))} --schedule certified"
    )
    yield (
        "how far each pruner can go on this network before a layer is empty:\n    "
        f"python -m collapse.critical {d.network}"
    )


def _down(compression: float) -> str:
    """Rounded down to four digits, so that the promise holds for what is printed."""
    step = 10.0 ** (math.floor(math.log10(compression)) - 3)
    return f"{math.floor(compression / step * (1 + 1e-12)) * step:.10g}"


def _next(d: Facts) -> Iterator[str]:
    if d.distance is None:
        return
    further = d.kept / d.distance.keep
    layer = d.distance.layer.removesuffix(".weight")
    place = next(x.place for x in d.layers if x.layer == d.distance.layer)
    yield (
        f"distance to critical: one more scoring by {d.distance.pruner} can prune it "
        f"{further:,.4g} times further, to compression {d.parameters / d.distance.keep:,.6g}; "
        f"beyond it {layer} ({place}) is empty"
    )


def _others(d: Facts, kinds: Set[str]) -> Iterator[str]:
    if "returned" in kinds:
        yield (
            "an optimiser's step brings pruned weights back: keep them at zero with "
            "collapse.keep_pruned(model, masks, optimizer)"
        )
    if "constants" in kinds:
        yield (
            "dead units that feed constants can go without a trace: collapse.shrink(model, masks, "
            "example) folds them into the next layer"
        )
    if "not finite" in kinds:
        yield "weights that are not finite: go back to the last finite checkpoint, at a lower rate"
    if d.target is not None and abs(off_target(d)) > len(d.layers):
        yield (
            "an exact count needs an exact k (a threshold takes all ties or none):\n    "
            f"python -m collapse.pruning {d.network} --compression {d.target:g}"
        )
