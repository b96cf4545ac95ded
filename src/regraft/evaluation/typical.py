"""The paired randomisation test of a mean, and the interval that is the same test inverted.

Under the hypothesis that B is better by exactly d, each row's difference less d has either sign with the same chance. For a
choice F of rows whose signs are turned, the turned sum reaches the one seen exactly if d is at least the mean over F. So the
ends of the interval are order statistics of means over random halves of the rows: Hartigan's typical values (Hartigan 1969,
"Using subsample values as typical values"; Lehmann & Romano 2005, section 15.2, for the test). With as many halves as their
complements the two-sided p-value and the interval come from the same numbers, and can never contradict each other.

Where rows belong together, the signs of whole groups are turned, and a mean over F is that of the rows of its groups.

Shapes: N rows, U rows or groups that are turned as one, R choices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np

from regraft.evaluation.clusters import group_sums, standard_error
from regraft.evaluation.intervals import CHUNK_NUMBERS, MOST_VISITS
from regraft.evaluation.shares import quantile_of_normal, quantile_of_t
from regraft.types import Array, FloatArray

_SAME = 1e-12


def mean_test(
    moved_N: FloatArray, groups_N: Array | None, resamples: int, confidence: float, rng: np.random.Generator
) -> tuple[float, float, float, float, float]:
    """Test whether the mean of differences is 0.

    Args:
        moved_N: What each row of B is more than that of A.
        groups_N: Which rows belong together; each by itself if not given.
        resamples: Exchanges that are tried; all of them up to so many.
        confidence: Of the interval.
        rng: Draws the exchanges.

    Returns:
        Mean, two-sided p-value, lower and upper end of the interval, standard error.
    """
    value = float(moved_N.mean())
    sums_U, rows_U = group_sums(moved_N, groups_N), group_sums(np.ones(len(moved_N)), groups_N)
    turned = len(sums_U)
    error = standard_error(moved_N - value, groups_N) * (
        math.sqrt(turned / (turned - 1)) if turned > 1 and groups_N is None else 1.0
    )
    if turned == 1:
        return value, 1.0, min(value, 0.0), max(value, 0.0), abs(value)
    if turned * resamples > MOST_VISITS:
        half = quantile_of_normal(0.5 + confidence / 2) * error
        return value, normal_p(float(sums_U.sum()), float(np.sqrt(np.square(sums_U).sum()))), value - half, value + half, error
    every = turned < 63 and 2**turned <= resamples
    means_R = _means(sums_U, rows_U, resamples, rng, every=every)
    same = _SAME * float(np.abs(moved_N).max())
    against = int((means_R <= same).sum() if value >= 0 else (means_R >= -same).sum())
    # With all exchanges, the choice of none is the one that was seen: it counts on either side.
    tried, seen = (len(means_R) + 1, 1) if every else (len(means_R), 0)
    p_value = 2 * (against + seen) / tried if every else (2 * against + 1) / (tried + 1)
    alpha = 1 - confidence
    place = math.ceil(alpha * tried / 2 - _SAME) - 1 if every else math.ceil((alpha * (tried + 1) - 1) / 2 - _SAME)
    if place < 1:  # so few rows that no difference, however large, would be rejected
        reach = quantile_of_t(0.5 + confidence / 2, turned - 1) * error
        return value, min(1.0, p_value), value - reach, value + reach, error
    means_R.sort()
    return value, min(1.0, p_value), float(means_R[place - 1]), float(means_R[-place]), error


def normal_p(value: float, error: float) -> float:
    """Return the two-sided p-value of a value whose error is normal."""
    return 2 * NormalDist().cdf(-abs(value) / error) if error > 0 else float(value == 0)


def _means(sums_U: FloatArray, rows_U: FloatArray, resamples: int, rng: np.random.Generator, *, every: bool) -> FloatArray:
    """Return the mean over each choice of rows, and over its complement (R,)."""
    both_U2, found = np.stack([sums_U, rows_U], axis=1), []
    for chosen_RU in _chosen(len(sums_U), resamples, rng, every=every):
        sums_R2 = chosen_RU @ both_U2
        found.append(sums_R2)
        if not every:
            found.append(both_U2.sum(axis=0) - sums_R2)
    sums_R2 = np.concatenate(found)
    # Of no row there is no mean; all rows are turned as often, and their mean is the value.
    sums_R2 = sums_R2[sums_R2[:, 1] > 0]
    means_R: FloatArray = sums_R2[:, 0] / sums_R2[:, 1]
    return means_R


def _chosen(turned: int, resamples: int, rng: np.random.Generator, *, every: bool) -> Iterator[FloatArray]:
    if every:
        yield (np.arange(2**turned)[:, None] >> np.arange(turned) & 1).astype(np.float64)
        return
    choices, step = (resamples + 1) // 2, max(1, CHUNK_NUMBERS // turned)
    for start in range(0, choices, step):
        yield rng.integers(0, 2, size=(min(step, choices - start), turned)).astype(np.float64)


__all__ = ["mean_test", "normal_p"]
