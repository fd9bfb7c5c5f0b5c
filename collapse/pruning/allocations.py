"""Allocations: how many weights each layer keeps, decided before any of them is scored.

The score then ranks within each layer only. Each allocation is a rule for densities ``d`` that
solves ``Σ d_l n_l = k`` for layers of ``n_l`` parameters; ``k`` are kept in all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from collapse.errors import RequestError
from collapse.masks import apportion
from collapse.options import check_allocation

Shapes = Mapping[str, Sequence[int]]
Numbers = dict[str, float]

# What the papers keep of the last linear layer: at least (Gale et al.), and exactly (Su et al.).
UNIFORM_PLUS_HEAD = 0.2
SMART_RATIO_HEAD = 0.3


def densities(allocation: str, shapes: Shapes, keep: int) -> Numbers:
    """The density that an allocation gives each layer, in real numbers.

    - ``uniform``: all the same.
    - ``uniform+`` (Gale, Elsen & Hooker 2019): the first convolution whole, at least a fifth of the
      last linear layer, all else the same.
    - ``er`` (Mocanu et al. 2018), Erdős–Rényi: ``ε (c_out + c_in) / (c_out c_in)``.
    - ``erk`` (Evci et al. 2020), with the kernel: ``ε (c_out + c_in + h + w) / (c_out c_in h w)``.
      In both a density that would pass 1 is 1, and ``ε`` grows for the others.
    - ``igq`` (Vysogorets & Kempe 2023), ideal gas quotas: ``1 / (1 + F n_l)``, for one force ``F``.
    - ``smart-ratio`` (Su et al. 2020): the last linear layer 0.3, layer ``l`` of ``L``
      ``ε ((L − l + 1)² + (L − l + 1))``, at most 1 (as in their residual networks).

    Args:
        shapes: of the weights, in the model's order; a linear layer's has two numbers, and a
            grouped convolution's second one is the channels of a group.
        keep: ``k``, of all.

    Raises:
        RequestError: an unknown name, one that copies a pruner (``like:``), or a number that the
            rule cannot keep (the layers that are in the way are named), or no shapes.

    Example:
        >>> densities("erk", {"a": (4, 2), "b": (8, 32)}, 48)
        {'a': 1.0, 'b': 0.15625}
    """
    check_allocation(allocation)
    if allocation not in _RULES:
        raise RequestError(f"allocation '{allocation}' has no formula: it prunes by that pruner")
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    total = sum(sizes.values())
    if not total:
        raise RequestError("shapes are empty: expected a weight a layer")
    if not 0 <= keep <= total:
        raise RequestError(f"expected to keep between 0 and {total} parameters, got {keep}")
    return _RULES[allocation](shapes, sizes, keep)


def counts(
    allocation: str, shapes: Shapes, keep: int, survivors: Mapping[str, int] | None = None
) -> dict[str, int]:
    """How many weights of each layer an allocation keeps: whole numbers that add up to ``keep``.

    The largest remainders are rounded up, ties to the earlier layer; ``uniform`` is the layer
    scope's apportionment.

    Args:
        survivors: what there is to keep of each layer, where that is not all of it.

    Raises:
        RequestError: as ``densities``; or more is asked of a layer than has survived.
    """
    found = densities(allocation, shapes, keep)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    there = dict(survivors or sizes)
    quotas = {name: found[name] * sizes[name] for name in sizes}
    if allocation == "uniform":
        quotas = dict(zip(sizes, apportion(list(sizes.values()), keep), strict=True))
    # A rule that is applied to its own result may ask for one weight more: that is rounding.
    short = [name for name in sizes if quotas[name] > there[name] + 1]
    if short or sum(there.values()) < keep:
        words = ", ".join(f"'{n}' ({there[n]:,} for {quotas[n]:,.0f})" for n in short or there)
        raise RequestError(
            f"allocation {allocation} cannot keep {keep:,} of these survivors: too few are left in "
            f"{words}"
        )
    # Within rounding of a whole number it is that number.
    whole = {n: min(there[n], math.floor(quota + 1e-9)) for n, quota in quotas.items()}
    while (missing := keep - sum(whole.values())) > 0:
        open_layers = [n for n in whole if whole[n] < there[n]]
        open_layers.sort(key=lambda n: whole[n] - quotas[n])  # stable: ties to the earlier
        for name in open_layers[:missing]:
            whole[name] += 1
    return whole


def towards(
    final: Mapping[str, int], survivors: Mapping[str, int]
) -> Callable[[int], dict[str, int]]:
    """How many of each layer to keep on the way to the final numbers.

    What a layer has in excess of its final number is removed in proportion, so that each layer
    only ever shrinks and the last step arrives exactly.
    """
    excess = {
        name: survivors[name] - final[name] for name in final if survivors[name] > final[name]
    }
    end = sum(final.values())

    def at(keep: int) -> dict[str, int]:
        above = apportion(list(excess.values()), keep - end) if excess else []
        more = dict(zip(excess, above, strict=True))
        return {name: count + more.get(name, 0) for name, count in final.items()}

    return at


# --- The rules --------------------------------------------------------------------------------


def _uniform(shapes: Shapes, sizes: Mapping[str, int], keep: int) -> Numbers:
    return dict.fromkeys(sizes, keep / sum(sizes.values()))


def _uniform_plus(shapes: Shapes, sizes: Mapping[str, int], keep: int) -> Numbers:
    convolutions = [name for name, shape in shapes.items() if len(shape) > 2]
    fixed = dict.fromkeys(convolutions[:1], 1.0)
    head = _last_linear(shapes)
    found = _filled("uniform+", sizes, keep, fixed, dict.fromkeys(sizes, 1.0), strict=False)
    if head and found[head] < UNIFORM_PLUS_HEAD:
        fixed[head] = UNIFORM_PLUS_HEAD
    return _filled("uniform+", sizes, keep, fixed, dict.fromkeys(sizes, 1.0))


def _erdos_renyi(shapes: Shapes, sizes: Mapping[str, int], keep: int) -> Numbers:
    weights = {name: sum(shape[:2]) / math.prod(shape[:2]) for name, shape in shapes.items()}
    return _filled("er", sizes, keep, {}, weights)


def _erdos_renyi_kernel(shapes: Shapes, sizes: Mapping[str, int], keep: int) -> Numbers:
    weights = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    return _filled("erk", sizes, keep, {}, weights)


def _ideal_gas(shapes: Shapes, sizes: Mapping[str, int], keep: int) -> Numbers:
    """By bisection: what is kept falls with the force, and is below ``L / F``."""
    if keep == 0:
        return dict.fromkeys(sizes, 0.0)
    low, high = 0.0, len(sizes) / keep
    while low < (middle := (low + high) / 2) < high:
        if sum(size / (1 + middle * size) for size in sizes.values()) > keep:
            low = middle
        else:
            high = middle
    return {name: 1 / (1 + low * size) for name, size in sizes.items()}


def _smart_ratio(shapes: Shapes, sizes: Mapping[str, int], keep: int) -> Numbers:
    head = _last_linear(shapes)
    fixed = {head: SMART_RATIO_HEAD} if head else {}
    ranks = range(len(shapes), 0, -1)
    weights = {name: float(k * k + k) for name, k in zip(shapes, ranks, strict=True)}
    return _filled("smart-ratio", sizes, keep, fixed, weights)


_RULES = {
    "uniform": _uniform,
    "uniform+": _uniform_plus,
    "er": _erdos_renyi,
    "erk": _erdos_renyi_kernel,
    "igq": _ideal_gas,
    "smart-ratio": _smart_ratio,
}


def _last_linear(shapes: Shapes) -> str | None:
    """The head: the last weight with two dimensions, unless there is no other layer."""
    linear = [name for name, shape in shapes.items() if len(shape) == 2]
    return linear[-1] if linear and len(shapes) > 1 else None


def _filled(
    allocation: str,
    sizes: Mapping[str, int],
    keep: int,
    fixed: Mapping[str, float],
    weights: Mapping[str, float],
    *,
    strict: bool = True,
) -> Numbers:
    """``min(1, ε w_l)`` where nothing is fixed, with the ``ε`` that keeps ``keep`` in all.

    Raises:
        RequestError: if strict, what is fixed is more, or all else is full and it is less.
    """
    found = dict(fixed)
    while True:
        left = keep - sum(found[name] * sizes[name] for name in found)
        mass = sum(weights[name] * sizes[name] for name in sizes if name not in found)
        epsilon = left / mass if mass else 0.0
        full = [n for n in sizes if n not in found and epsilon * weights[n] >= 1]
        if not full:
            break
        found.update(dict.fromkeys(full, 1.0))
    if strict and (left < -1e-6 or (left > 1e-6 and not mass)):
        raise _unreachable(allocation, sizes, keep, found, "already" if left < 0 else "at most")
    return {name: found.get(name, max(0.0, epsilon) * weights[name]) for name in sizes}


def _unreachable(
    allocation: str, sizes: Mapping[str, int], keep: int, found: Mapping[str, float], word: str
) -> RequestError:
    total = sum(sizes.values())
    full = ", ".join(f"'{name}'" for name, density in found.items() if density == 1)
    held = "".join(f", '{n}' at {density:g}" for n, density in found.items() if density < 1)
    bound = sum(density * sizes[name] for name, density in found.items())
    return RequestError(
        f"allocation {allocation} cannot keep {keep:,} of {total:,} (density {keep / total:.3g}): "
        f"full: {full or 'no layer'}{held}, which is {bound:,.0f} {word}"
    )
