"""What happens to a series before a network sees it: an even grid, one scale, no gaps. numpy only.

Shapes: T steps, G steps of a grid, K channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regraft.modalities.measurements import Measured
from regraft.types import Array, FloatArray

_FLAT = 1e-12
_MOST_STEPS = 2**40
_NEXT_TO_NOTHING = 1e-9


@dataclass(frozen=True)
class Steps:
    """A part of a series, steps equally far apart.

    Args:
        values_TK: Numbers; NaN where nothing was measured and nothing can be said.
        seen_TK: Where something was measured.
        spans_T2: The steps of the original that each step stands for.
        dropped: Steps that were cut off.
    """

    values_TK: FloatArray
    seen_TK: Array
    spans_T2: Array
    dropped: int


def kept(total: int, limit: int, from_left: bool) -> tuple[int, int]:
    """Return the first and the last step (exclusive) of a series that is cut to a limit at its left or right end."""
    size = min(total, limit)
    return (total - size, total) if from_left else (0, size)


def even(found: Measured, limit: int, from_left: bool) -> Steps:
    """Return a series whose steps are equally far apart, cut to a limit."""
    start, end = kept(len(found), limit, from_left)
    values_TK = found.values_TK[start:end]
    place_T = np.arange(start, end, dtype=np.int32)
    return Steps(values_TK, ~np.isnan(values_TK), np.stack([place_T, place_T + 1], axis=1), len(found) - (end - start))


def gridded(found: Measured, times_T: FloatArray, step: float, limit: int, from_left: bool) -> Steps:
    """Return a series on a grid from its first to its last time, by linear interpolation, cut to a limit.

    A place of the grid counts as measured in a channel if something was measured in it at most half a step away.

    Args:
        found: The series.
        times_T: Its times.
        step: Distance of the grid, in the unit of the times.
        limit: Most steps.
        from_left: Whether the left end is cut.
    """
    total = int(min((times_T[-1] - times_T[0]) / step + _NEXT_TO_NOTHING, _MOST_STEPS)) + 1
    start, end = kept(total, limit, from_left)
    grid_G = times_T[0] + np.arange(start, end) * step
    values_GK = np.full((end - start, found.channels), np.nan)
    seen_GK = np.zeros(values_GK.shape, dtype=bool)
    for channel, values_T in enumerate(found.values_TK.T):
        there = ~np.isnan(values_T)
        if there.any():
            values_GK[:, channel] = np.interp(grid_G, times_T[there], values_T[there])
            seen_GK[:, channel] = _nearest(grid_G, times_T[there]) <= step / 2 * (1 + _NEXT_TO_NOTHING)
    low_G, high_G = (np.searchsorted(times_T, grid_G + side * step / 2) for side in (-1, 1))
    spans_G2 = np.stack([low_G, high_G], axis=1)
    spans_G2[low_G == high_G] = 0
    return Steps(values_GK, seen_GK, spans_G2.astype(np.int32), total - (end - start))


def _nearest(grid_G: FloatArray, times_T: FloatArray) -> FloatArray:
    """Return how far the nearest of some times is from each place of a grid."""
    after_G = np.searchsorted(times_T, grid_G).clip(1, max(1, len(times_T) - 1))
    before = np.abs(grid_G - times_T[after_G - 1])
    nearest_G: FloatArray = np.minimum(before, np.abs(grid_G - times_T[np.minimum(after_G, len(times_T) - 1)]))
    return nearest_G


def moments(values_TK: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return mean and deviation of each channel over what was measured (K,); 0 and 1 for a channel without any.

    A channel that does not change has the deviation 1, so that it becomes zeros. As RevIN has it (Kim et al. 2022, equation 1),
    without its learnt scale and with this in the place of its small constant, which would be large for small numbers.
    """
    there_TK = ~np.isnan(values_TK)
    count_K = there_TK.sum(axis=0)
    filled_TK = np.where(there_TK, values_TK, 0.0)
    mean_K = filled_TK.sum(axis=0) / np.maximum(count_K, 1)
    squares_K = np.where(there_TK, (filled_TK - mean_K) ** 2, 0.0).sum(axis=0)
    return mean_K, solid(np.sqrt(squares_K / np.maximum(count_K, 1)), mean_K)


def solid(deviation_K: FloatArray, mean_K: FloatArray) -> FloatArray:
    """Return deviations with 1 in the place of those that are rounding errors of the mean."""
    return np.where(deviation_K > _FLAT * np.maximum(np.abs(mean_K), np.finfo(np.float64).tiny), deviation_K, 1.0)


def by_line(values_TK: FloatArray) -> FloatArray:
    """Fill gaps between two numbers on the line between them, and those at the ends with the nearest number."""
    filled = values_TK.copy()
    places = np.arange(len(filled))
    for channel in filled.T:
        there = ~np.isnan(channel)
        if there.any() and not there.all():
            channel[~there] = np.interp(places[~there], places[there], channel[there])
    return np.nan_to_num(filled, nan=0.0)


def by_last(values_TK: FloatArray) -> FloatArray:
    """Fill gaps with the number before them, and one at the beginning with the first."""
    there_TK = ~np.isnan(values_TK)
    places_T1 = np.arange(len(values_TK))[:, None]
    last_TK = np.maximum.accumulate(np.where(there_TK, places_T1, -1), axis=0)
    from_TK = np.where(last_TK < 0, there_TK.argmax(axis=0)[None, :], last_TK)
    return np.nan_to_num(np.take_along_axis(values_TK, from_TK, axis=0), nan=0.0)


def by_zero(values_TK: FloatArray) -> FloatArray:
    """Fill gaps with 0: the mean of a channel that was scaled."""
    return np.nan_to_num(values_TK, nan=0.0)
