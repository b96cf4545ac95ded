"""Whole numbers of 8 bits for the two sides of a product `x W`, so that the product of rows like some known ones loses little.

A channel of x that is much larger than the others would leave these few steps. It is divided by a factor, and its row of W
multiplied by it: `x W = (x / f) (f W)`, with f = max|x|^a / max|W|^(1-a) (Xiao et al. 2022, arXiv:2211.10438, equation 4).

Rows of W are rounded one after the other, and what rounding one changes in the products of the known rows is made up for in
those that are not yet rounded, by the inverse of `x^T x` (Frantar et al. 2022, arXiv:2210.17323, section 3). No number moves
further than two steps by that, so that a weight in a file can still be told from one that is not the source's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from regraft.types import Array, FloatArray

MOST_WEIGHT = 63  # 7 bits with a sign
_FURTHEST, _NEAREST = 2.0, 0.5
_LONGER = 0.01  # share by which a column may have become longer or shorter
_STEPS = 255
_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
_POWER = 0.8
_ROWS_LOOKED_AT = 1024
_DAMPING = 0.01
_BLOCK = 128
_FEWEST_CHANNELS, _MOST_CHANNELS = 64, 6144
"""Others are rounded number by number: too few cannot make up for one, and the square of too many does not fit."""


@dataclass(frozen=True)
class Range:
    """How an input becomes whole numbers.

    Args:
        scale: Size of one step.
        zero: The number that stands for 0.
        factors_K: What each channel is divided by before; None where all are left as they are.
    """

    scale: float
    zero: int
    factors_K: FloatArray | None = None

    def divided(self, rows_NK: FloatArray) -> FloatArray:
        """Return rows with each channel divided by its factor."""
        return rows_NK if self.factors_K is None else rows_NK / self.factors_K

    def times(self, weight_KN: FloatArray) -> FloatArray:
        """Return a weight with each row multiplied by its factor."""
        return weight_KN if self.factors_K is None else weight_KN * self.factors_K[:, None]

    def rounded(self, rows_NK: FloatArray) -> FloatArray:
        """Return rows, divided already, as the whole numbers say."""
        numbers_NK = np.clip(np.rint(rows_NK / self.scale) + self.zero, 0, _STEPS) - self.zero
        values_NK: FloatArray = (numbers_NK * self.scale).astype(np.float32)
        return values_NK


@dataclass(frozen=True)
class Seen:
    """What calibration rows make of an input.

    Args:
        rows_NK: Some of them, evenly spread.
        low_K: The smallest number of each channel among all, at most 0.
        high_K: The largest, at least 0.
    """

    rows_NK: FloatArray
    low_K: FloatArray
    high_K: FloatArray

    @classmethod
    def of(cls, parts: Sequence[Array], most_rows: int) -> Self:
        """Return it from arrays (..., K), one for each batch, with at most about so many rows."""
        each = max(1, most_rows // max(1, len(parts)))
        flat = [part.reshape(-1, part.shape[-1]).astype(np.float32, copy=False) for part in parts]
        some = [part[np.unique(np.linspace(0, len(part) - 1, each).astype(int))] for part in flat]
        low_K = np.minimum(np.min([part.min(axis=0) for part in flat], axis=0), 0.0)
        high_K = np.maximum(np.max([part.max(axis=0) for part in flat], axis=0), 0.0)
        return cls(np.concatenate(some), low_K, high_K)


def range_of(seen: Seen, weights: Sequence[FloatArray]) -> Range:
    """Return how an input becomes whole numbers so that its products with these weights (K, N) lose least.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32) * np.float32([100, 1, 1, 1])
        >>> found = range_of(Seen.of([rows], 100), [np.ones((4, 2), np.float32)])
        >>> bool(found.factors_K[0] > 10 * found.factors_K[1])
        True
    """
    rows_NK = seen.rows_NK[:: max(1, len(seen.rows_NK) // _ROWS_LOOKED_AT)]
    true = [rows_NK @ weight_KN for weight_KN in weights]
    # A product counts by what share of its own size it loses.
    parts = [1.0 / max(float(np.square(values).mean()), 1e-12) for values in true]
    best, least = Range(1.0, 0), float("inf")
    for factors_K in (None, *_factors(seen, weights)):
        whole = Range(1.0, 0, factors_K)
        low, high = float(whole.divided(seen.low_K).min()), float(whole.divided(seen.high_K).max())
        if high <= low:
            continue
        divided_NK, changed = whole.divided(rows_NK), [whole.times(weight_KN) for weight_KN in weights]
        for share in _SHARES:
            found = _between(share * low, share * high, factors_K)
            near_NK = found.rounded(divided_NK)
            pairs = zip(changed, true, parts, strict=True)
            lost = sum(part * float(np.square(near_NK @ weight_KN - values).mean()) for weight_KN, values, part in pairs)
            if lost < least:
                best, least = found, lost
    return best


def _factors(seen: Seen, weights: Sequence[FloatArray]) -> list[FloatArray]:
    """Return what channels may be divided by; one that is always 0, or meets only zeros, as if it were the smallest."""
    size_K = np.maximum(seen.high_K, -seen.low_K)
    weight_K = np.max([np.abs(weight_KN).max(axis=1) for weight_KN in weights], axis=0)
    if not (size_K > 0).any() or not (weight_K > 0).any():
        return []
    size_K, weight_K = (np.where(values_K > 0, values_K, values_K[values_K > 0].min()) for values_K in (size_K, weight_K))
    logs_K = _POWER * np.log(size_K) - (1.0 - _POWER) * np.log(weight_K)
    return [np.exp(logs_K - logs_K.mean()).astype(np.float32)]


def _between(low: float, high: float, factors_K: FloatArray | None) -> Range:
    scale = max((high - low) / _STEPS, 1e-12)
    return Range(float(np.float32(scale)), int(np.clip(np.rint(-low / scale), 0, _STEPS)), factors_K)


def weight_in_8_bits(weight_KN: FloatArray, rows_NK: FloatArray | None = None) -> tuple[Array, FloatArray]:
    """Return a weight as whole numbers of 7 bits, int8 (K, N), and the scale of each column (N,).

    Args:
        weight_KN: Any values.
        rows_NK: Rows that it is multiplied by; without any each number becomes the nearest.

    Example:
        >>> numbers, scales = weight_in_8_bits(np.array([[0.6, 2.0], [-1.0, 0.0]], np.float32))
        >>> numbers.tolist()
        [[38, 63], [-63, 0]]
    """
    scales_N = (np.maximum(np.abs(weight_KN).max(axis=0), 1e-12) / MOST_WEIGHT).astype(np.float32)
    if rows_NK is None or not _can_make_up(len(weight_KN)) or not rows_NK.any():
        return _nearest(weight_KN / scales_N), scales_N
    return _made_up(weight_KN / scales_N.astype(np.float64), rows_NK), scales_N


def _can_make_up(channels: int) -> bool:
    return _FEWEST_CHANNELS <= channels <= _MOST_CHANNELS


def steps_apart(numbers_KN: Array, steps_KN: FloatArray) -> float:
    """Return how far whole numbers are from a weight given in steps, as a share of what rounding may change.

    Both single numbers and, where there are many, the length of each column count: a wrong scale moves all numbers a little.

    Example:
        >>> steps_apart(np.array([[3], [5]], np.int8), np.array([[3.25], [5.0]]))
        0.5
    """
    furthest = float(np.abs(numbers_KN - steps_KN).max(initial=0.0))
    if not _can_make_up(len(numbers_KN)):
        return furthest / _NEAREST
    square_N = np.square(steps_KN, dtype=np.float64).sum(axis=0)
    longer_N = np.abs((numbers_KN * steps_KN).sum(axis=0) - square_N) / np.maximum(square_N, 1.0)
    # What rounding itself adds to a column of this length, by chance.
    allowed_N = _LONGER + _FURTHEST / np.sqrt(np.maximum(square_N, 1.0))
    return max(furthest / _FURTHEST, float((longer_N / allowed_N).max(initial=0.0)))


def _nearest(steps_KN: FloatArray) -> Array:
    return np.clip(np.rint(steps_KN), -MOST_WEIGHT, MOST_WEIGHT).astype(np.int8)


def _made_up(steps_KN: FloatArray, rows_NK: FloatArray) -> Array:
    """Return whole numbers for a weight in steps, each row making up for those before it."""
    channels = len(steps_KN)
    square_KK = rows_NK.T.astype(np.float64) @ rows_NK
    square_KK[np.diag_indices(channels)] += _DAMPING * float(np.trace(square_KK)) / channels
    # What matters most is rounded first, while there is most left to make up for it.
    order_K = np.argsort(-np.diag(square_KK), kind="stable")
    true_KN = steps_KN[order_K]
    upper_KK = np.linalg.cholesky(np.linalg.inv(square_KK[np.ix_(order_K, order_K)])).T
    low_KN = np.maximum(np.ceil(true_KN - _FURTHEST), -MOST_WEIGHT)
    high_KN = np.minimum(np.floor(true_KN + _FURTHEST), MOST_WEIGHT)
    left_KN, found_KN = true_KN.copy(), np.zeros_like(true_KN)
    for begin in range(0, channels, _BLOCK):
        end = min(begin + _BLOCK, channels)
        lost_BN = np.zeros((end - begin, true_KN.shape[1]))
        for row in range(begin, end):
            found_KN[row] = np.clip(np.rint(left_KN[row]), low_KN[row], high_KN[row])
            lost_BN[row - begin] = (left_KN[row] - found_KN[row]) / upper_KK[row, row]
            left_KN[row + 1 : end] -= np.outer(upper_KK[row, row + 1 : end], lost_BN[row - begin])
        left_KN[end:] -= upper_KK[begin:end, end:].T @ lost_BN
    numbers_KN = np.empty(steps_KN.shape, np.int8)
    numbers_KN[order_K] = found_KN.astype(np.int8)
    return numbers_KN


__all__ = ["MOST_WEIGHT", "Range", "Seen", "range_of", "steps_apart", "weight_in_8_bits"]
