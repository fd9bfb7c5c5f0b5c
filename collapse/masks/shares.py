"""Whole numbers in proportion, for the layer scope."""

from __future__ import annotations

from collections.abc import Sequence

from collapse.errors import RequestError


def apportion(sizes: Sequence[int], keep: int) -> list[int]:
    """Divide ``keep`` over layers in proportion to their sizes, in whole numbers.

    Webster's method (1832): the ``keep`` largest of the quotients ``size / (2 j + 1)``, ties to
    the earlier layer. Unlike largest remainders it never gives a layer more when ``keep`` falls,
    so masks of one scoring stay nested; unlike rounding it adds up exactly.

    Raises:
        RequestError: ``keep`` is below 0 or more than there are.

    Example:
        >>> apportion([6, 3], 3)
        [2, 1]
    """
    if not 0 <= keep <= sum(sizes):
        raise RequestError(f"expected to keep between 0 and {sum(sizes)}, got {keep}")
    if keep == 0:
        return [0] * len(sizes)
    shares = [min(size, keep * size // sum(sizes)) for size in sizes]
    while (missing := keep - sum(shares)) != 0:
        step = 1 if missing > 0 else -1
        shares[_webster_next(sizes, shares, step)] += step
    # The start was near, not exact: move seats while one layer's next claim beats another's last.
    while True:
        gain, loss = _webster_next(sizes, shares, 1), _webster_next(sizes, shares, -1)
        if not _claim(sizes, shares, gain, 0) < _claim(sizes, shares, loss, -1):
            return shares
        shares[gain] += 1
        shares[loss] -= 1


def _claim(sizes: Sequence[int], shares: Sequence[int], layer: int, seat: int) -> tuple[float, int]:
    """A claim's place in the queue (smaller is earlier) for a layer's next (0) or last (-1)."""
    return ((2 * (shares[layer] + seat) + 1) / sizes[layer], layer)


def _webster_next(sizes: Sequence[int], shares: Sequence[int], step: int) -> int:
    """The layer that gains (step 1) or loses (step -1) the next seat."""
    layers = range(len(sizes))
    if step > 0:
        open_layers = [i for i in layers if shares[i] < sizes[i]] or list(layers)
        return min(open_layers, key=lambda i: _claim(sizes, shares, i, 0))
    filled = [i for i in layers if shares[i] > 0] or list(layers)
    return max(filled, key=lambda i: _claim(sizes, shares, i, -1))
