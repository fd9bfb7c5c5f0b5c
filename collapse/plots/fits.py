"""The line through logarithms that figures 4 and 5b ask about."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Line(NamedTuple):
    """Slope and correlation; NaN where fewer than two different points are positive."""

    slope: float
    r: float

    def __str__(self) -> str:
        return f"slope {round(self.slope, 2) + 0.0:.2f}, r {self.r:.4f}"  # never -0.00


def line_of_logs(x: ArrayLike, y: ArrayLike) -> Line:
    """Least squares of ``log y`` on ``log x``, over the points at which both are positive.

    A correlation of 1 says that points lie on a line; conservation says that its slope is 1.

    Example:
        >>> str(line_of_logs([1, 10, 100], [2, 20, 200]))
        'slope 1.00, r 1.0000'
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    seen = (x > 0) & (y > 0)
    if len(set(x[seen])) < 2:
        return Line(np.nan, np.nan)
    from scipy.stats import linregress  # half a second to import

    fit = linregress(np.log(x[seen]), np.log(y[seen]))
    return Line(float(fit.slope), float(fit.rvalue))
