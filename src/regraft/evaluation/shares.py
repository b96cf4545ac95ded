"""Intervals of shares that need no resampling: Wilson's, the exact binomial one, and those of a difference that McNemar's test
decides.

The exact ones are found by bisection on a tail that is summed term by term, in logarithms, so that they hold for any number of
rows.

Shapes: K terms of a tail.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from regraft.types import Array

FEW = 5
"""Below so many right or wrong rows the exact interval of a proportion stands instead of Wilson's.

There Wilson's covers down to 0.84 where 0.95 is said (Brown, Cai & DasGupta 2001, section 4.1.1); the exact one never covers
less than it says. Elsewhere the exact one is wider than it need be, and Wilson's covers 0.93 to 0.97."""

_HALVINGS = 60
_EXPANDED_FROM = 5
_NORMAL_FROM = 10_000
_GRID = 5_001


def quantile_of_normal(probability: float) -> float:
    """Return z with P(Z <= z) = probability for a standard normal Z."""
    return NormalDist().inv_cdf(probability)


def p_of_t(t: float, freedom: float) -> float:
    """Return the two-sided p-value of Student's t.

    The density over t = root(freedom) tan(a) is cos(a)^(freedom - 1), which is summed; the normal limit for many degrees.

    Args:
        t: The statistic.
        freedom: Degrees of freedom; fewer than 1 count as 1.

    Example:
        >>> round(p_of_t(2.228, 10), 3)
        0.05
    """
    if freedom >= _NORMAL_FROM:
        return math.erfc(abs(t) / math.sqrt(2))
    power = max(freedom, 1.0) - 1
    edge = math.atan(abs(t) / math.sqrt(power + 1))

    def area(start: float) -> float:
        angles = np.linspace(start, math.pi / 2, _GRID)
        heights = np.maximum(np.cos(angles), 0.0) ** power
        return float((heights[1:] + heights[:-1]).sum()) * (math.pi / 2 - start)

    return min(1.0, area(edge) / area(0.0))


def quantile_of_t(probability: float, freedom: float) -> float:
    """Return t with P(T <= t) = probability for Student's T of so many degrees of freedom.

    The expansion about the normal quantile in 1 / freedom (Abramowitz & Stegun 1964, 26.7.5), good to three digits from five
    degrees on; below that the p-value is inverted.

    Args:
        probability: Between 0 and 1.
        freedom: Degrees of freedom; fewer than 1 count as 1.

    Example:
        >>> round(quantile_of_t(0.975, 10), 3)
        2.228
    """
    if freedom < _EXPANDED_FROM:
        tail = 2 * min(probability, 1 - probability)
        t = _edge(lambda end: p_of_t(end, freedom) > tail, 0.0, 1e6)
        return t if probability > 0.5 else -t
    z = quantile_of_normal(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def wilson(right: float, rows: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference"; recommended for small samples
    by Brown, Cai & DasGupta 2001.

    Args:
        right: Successes, 0 to `rows`.
        rows: Trials; with 0 nothing is known and the interval is [0, 1].
        confidence: Between 0 and 1.

    Example:
        >>> low, high = wilson(10, 10)
        >>> round(low, 3), high
        (0.722, 1.0)
    """
    if rows <= 0:
        return 0.0, 1.0
    z = quantile_of_normal(0.5 + confidence / 2)
    share = right / rows
    centre = share + z * z / (2 * rows)
    half = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    scale = 1 + z * z / rows
    low = 0.0 if right <= 0 else (centre - half) / scale
    high = 1.0 if right >= rows else (centre + half) / scale
    return low, high


def mover(right_K: Array, rows_K: Array, confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval for the plain mean of proportions of independent groups of rows.

    Each proportion has Wilson's interval; their distances from the estimates are combined as independent ones, by the square
    root of the sum of squares (MOVER: Zou & Donner 2008, "Construction of confidence limits about effect measures"). With one
    proportion this is Wilson's interval itself.

    Args:
        right_K: Successes of each group.
        rows_K: Trials of each group, above 0.
        confidence: Between 0 and 1.
    """
    shares_K = right_K / rows_K
    ends_K2 = np.array([wilson(right, rows, confidence) for right, rows in zip(right_K, rows_K, strict=True)])
    below, above = (float(np.sqrt(np.square(ends_K2[:, end] - shares_K).sum())) / len(rows_K) for end in (0, 1))
    mean = float(shares_K.mean())
    return max(0.0, mean - below), min(1.0, mean + above)


def clopper_pearson(right: int, rows: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact binomial interval of a proportion.

    The shares that two one-sided binomial tests do not reject (Clopper & Pearson 1934, "The use of confidence or fiducial
    limits illustrated in the case of the binomial").

    Args:
        right: Successes, 0 to `rows`.
        rows: Trials; with 0 nothing is known and the interval is [0, 1].
        confidence: Between 0 and 1.

    Example:
        >>> low, high = clopper_pearson(10, 10)
        >>> round(low, 4), high
        (0.6915, 1.0)
    """
    if rows <= 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    return 1.0 - _upper(rows - right, rows, tail), _upper(right, rows, tail)


def proportion(right: int, rows: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of a proportion: the exact one where fewer than `FEW` rows are right or wrong, else Wilson's.

    Args:
        right: Successes, 0 to `rows`.
        rows: Trials.
        confidence: Between 0 and 1.
    """
    few = min(right, rows - right) < FEW
    return clopper_pearson(right, rows, confidence) if few else wilson(right, rows, confidence)


def paired_interval(only_a_right: int, only_b_right: int, rows: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of the accuracy difference of B and A on the same rows; it holds 0 exactly if McNemar's test does.

    The wider ends of two intervals: the score interval (Tango 1998, "Equivalence test and confidence interval for the
    difference in proportions for the paired-sample design"), which covers well but is a little narrower than the exact test
    near 0; and the exact test inverted, which takes the number of rows on which the two differ as given: that number over all
    rows, times 2 q - 1 with q in the exact binomial interval of the share of them that B has right.

    Args:
        only_a_right: Rows that only A has right.
        only_b_right: Rows that only B has right.
        rows: All rows, above 0.
        confidence: Between 0 and 1.

    Example:
        >>> [round(end, 3) for end in paired_interval(2, 12, 94)]
        [0.014, 0.191]
    """
    differ = only_a_right + only_b_right
    low, high = _tango(only_a_right, only_b_right, rows, confidence)
    if not differ:
        return low, high
    least, most = clopper_pearson(only_b_right, differ, confidence)
    return min(low, differ / rows * (2 * least - 1)), max(high, differ / rows * (2 * most - 1))


def _upper(right: int, rows: int, tail: float) -> float:
    """Return the share at which so few successes or fewer have the probability `tail`."""
    if right >= rows:
        return 1.0
    log_ways_K = _log_ways(rows, right)
    picked_K = np.arange(right + 1)

    def too_likely(share: float) -> bool:
        logs_K = log_ways_K + picked_K * math.log(share) + (rows - picked_K) * math.log1p(-share)
        largest = float(logs_K.max())
        return largest + math.log(float(np.exp(logs_K - largest).sum())) > math.log(tail)

    return _edge(too_likely, right / rows, 1.0)


def _log_ways(rows: int, most: int) -> Array:
    """Return log of the ways to choose 0, 1, ... `most` of the rows."""
    picked = np.arange(1, most + 1, dtype=np.float64)
    return np.concatenate([[0.0], np.cumsum(np.log((rows - picked + 1) / picked))])


def _tango(only_a: int, only_b: int, rows: int, confidence: float) -> tuple[float, float]:
    """Return the differences whose score statistic stays below the quantile."""
    z = quantile_of_normal(0.5 + confidence / 2)
    value = (only_b - only_a) / rows

    def inside(difference: float) -> bool:
        # The share of rows that only A has right, estimated under this difference: the root of Tango's equation (1998, (4)).
        b_half = -only_b - only_a + (2 * rows - only_b + only_a) * difference
        product = -only_a * difference * (1 - difference)
        share = (math.sqrt(max(0.0, b_half * b_half - 8 * rows * product)) - b_half) / (4 * rows)
        variance = rows * (2 * share + difference * (1 - difference))
        gap = abs(only_b - only_a - rows * difference)
        return gap <= z * math.sqrt(max(variance, 0.0))

    return -_edge(lambda end: inside(-end), -value, 1.0), _edge(inside, value, 1.0)


def _edge(inside: Callable[[float], bool], start: float, stop: float) -> float:
    """Return where `inside` ends on the way from `start` to `stop`."""
    if start >= stop:
        return stop
    low, high = start, stop
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if inside(middle) else (low, middle)
    return high


__all__ = [
    "FEW",
    "clopper_pearson",
    "mover",
    "p_of_t",
    "paired_interval",
    "proportion",
    "quantile_of_normal",
    "quantile_of_t",
    "wilson",
]
