"""Holm's correction: p-values of several tests, so adjusted that the chance of any false alarm stays what it was for one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from regraft.types import FloatArray


def holm(p_values: Sequence[float] | FloatArray) -> FloatArray:
    """Return the adjusted p-value of each test, in the order given.

    The k-th smallest of m is multiplied by m - k + 1 and never less than the one before it (Holm 1979, "A simple sequentially
    rejective multiple test procedure"). Nothing is assumed about how the tests depend on each other.

    Args:
        p_values: One a test, 0 to 1; NaN for a test that was not made, which counts for nothing and stays NaN.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
        [0.03, 0.06, 0.06]
    """
    given_M = np.asarray(p_values, dtype=np.float64)
    adjusted_M = np.full(len(given_M), np.nan)
    made = np.flatnonzero(~np.isnan(given_M))
    order = made[np.argsort(given_M[made], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted_M[order] = np.minimum(1.0, np.maximum.accumulate(given_M[order] * factors))
    return adjusted_M
