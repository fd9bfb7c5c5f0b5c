"""Numbers as the page writes them: three digits, rounded to the side on which they stay true."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal


def down(value: float) -> str:
    """For "safe up to": never more than was measured. ``166.6`` is 166, ``3.7079`` is 3.70."""
    return _three(value, ROUND_FLOOR)


def up(value: float) -> str:
    """For "gone from": never less than was measured. ``166.2`` is 167."""
    return _three(value, ROUND_CEILING)


def near(value: float) -> str:
    """For sizes, shares and residuals."""
    return _three(value, ROUND_HALF_EVEN)


def apart(values: Sequence[float]) -> list[str]:
    """Rising numbers rounded down, with as many more digits as tell neighbours apart."""
    digits = 3
    while digits < 17:
        labels = [_rounded(value, ROUND_FLOOR, digits) for value in values]
        if len(set(labels)) == len(set(values)):
            return labels
        digits += 1
    return labels


def percent(share: float) -> str:
    """``0.0012345`` is 0.123 %."""
    return f"{near(100 * share)} %"


def counted(number: int, thing: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def listed(words: list[str], most: int = 4) -> str:
    """``a, b and c``; of many the first, and how many more."""
    if len(words) > most:
        words = [*words[: most - 1], f"{len(words) - most + 1:,} more"]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _three(value: float, rounding: str) -> str:
    return _rounded(value, rounding, 3)


def _rounded(value: float, rounding: str, places: int) -> str:
    if not math.isfinite(value):
        return "infinity" if value > 0 else "–"
    if value == 0:
        return "0"
    exact = Decimal(repr(float(value)))
    if exact == exact.to_integral_value() and abs(exact) < 100:
        return f"{exact:.0f}"
    digits = exact.adjusted() - places + 1
    rounded = exact.quantize(Decimal(1).scaleb(digits), rounding=rounding)
    if rounded.adjusted() > exact.adjusted():  # 99.96 became 100.0
        rounded = rounded.quantize(Decimal(1).scaleb(digits + 1))
    if abs(rounded) >= 10**7 or abs(rounded) < Decimal("0.001"):
        mantissa = rounded.scaleb(-rounded.adjusted())
        return f"{mantissa:.3g}e{rounded.adjusted()}"
    return f"{rounded:,f}" if digits < 0 else f"{rounded:,.0f}"
