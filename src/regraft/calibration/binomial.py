"""Exact bounds for a share: Clopper & Pearson's, from the binomial distribution. Numpy is enough to answer with them."""

from __future__ import annotations

import math
from collections.abc import Callable

_TINY = 1e-300
_CLOSE = 1e-15
_MOST_TERMS = 100_000


def at_most(wrong: int, rows: int, share: float) -> float:
    """Return P(X <= wrong) for X ~ Bin(rows, share).

    It is the regularised incomplete beta function I_{1 - share}(rows - wrong, wrong + 1) (Abramowitz & Stegun 26.5.24), by its
    continued fraction (26.5.8; Lentz's way of evaluating it).

    Example:
        >>> round(at_most(0, 100, 0.02), 6) == round(0.98**100, 6)
        True
    """
    if wrong >= rows or share <= 0.0:
        return 1.0
    if wrong < 0 or share >= 1.0:
        return 0.0
    a, b, x = float(rows - wrong), float(wrong + 1), 1.0 - share
    if x < (a + 1.0) / (a + b + 2.0):
        return _beta_part(a, b, x)
    return 1.0 - _beta_part(b, a, 1.0 - x)


def _beta_part(a: float, b: float, x: float) -> float:
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    fraction = d
    for term in range(1, _MOST_TERMS):
        for step in (
            term * (b - term) * x / ((a + 2 * term - 1) * (a + 2 * term)),
            -(a + term) * (a + b + term) * x / ((a + 2 * term) * (a + 2 * term + 1)),
        ):
            d = 1.0 / (1.0 + step * d or _TINY)
            c = 1.0 + step / c or _TINY
            fraction *= c * d
        if abs(c * d - 1.0) < _CLOSE:
            break
    return front * fraction / a


def exact(wrong: int, rows: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the ends of Clopper & Pearson's interval of a share (1934): at each end one half of what is left is outside.

    Args:
        wrong: Of `rows`.
        rows: Trials; with 0 nothing is known and the interval is [0, 1].
        confidence: Between 0 and 1.

    Example:
        >>> low, high = exact(0, 10)
        >>> low, round(high, 4)
        (0.0, 0.3085)
    """
    tail = (1.0 - confidence) / 2
    low = 0.0 if wrong <= 0 else _root(lambda share: 1.0 - at_most(wrong - 1, rows, share) - tail)
    high = 1.0 if wrong >= rows else _root(lambda share: tail - at_most(wrong, rows, share))
    return low, high


def _root(rising: Callable[[float], float]) -> float:
    """Return where a function that rises from below 0 crosses it between 0 and 1."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
