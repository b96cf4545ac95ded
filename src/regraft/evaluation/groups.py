"""Are some rows answered better or worse than others? Two groups of rows, one model: intervals, differences, p-values.

What is compared is a function of sums over rows (`regraft.evaluation.paired.Quantity`), as where two models are compared.

- Where each row is simply right or wrong: Wilson's interval, Newcombe's interval of the difference, Fisher's exact test.
- Everywhere else: the percentile bootstrap of each group by itself, and a randomisation test: if the group does not matter,
  any other rows could as well be in it (Fisher 1935; Pitman 1937). Beyond `MOST_VISITS` the normal limit of both.

Shapes: N rows, K sums, S groups, R resamples.
"""

from __future__ import annotations

import math

import numpy as np

from regraft.evaluation.intervals import CHUNK_NUMBERS, percentile, resample_weights
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.paired import Quantity
from regraft.evaluation.shares import wilson
from regraft.types import Array, FloatArray, Metric

MOST_VISITS = 500_000_000
"""Rows x sums x groups x resamples that are looked at for the p-values of large groups."""
_MOST_DRAWN = 4_000_000
_MOST_PERMUTED = 50_000_000
_LARGE = 200
_SMALL_SHARE = 0.1


def right_or_wrong(parts_NK: FloatArray) -> bool:
    """Return whether all that rows add is one 0 or 1."""
    return parts_NK.shape[1] == 1 and bool(((parts_NK == 0) | (parts_NK == 1)).all())


def value_of(parts_NK: FloatArray, quantity: Quantity) -> float:
    """Return the quantity on some rows; NaN where there are none."""
    return float(quantity.of_sums(parts_NK.sum(axis=0)[None], len(parts_NK))[0]) if len(parts_NK) else math.nan


def interval_of(parts_NK: FloatArray, quantity: Quantity, options: JudgeOptions, rng: np.random.Generator) -> Metric:
    """Return the quantity on some rows with its interval; one row, or none, shows no spread where it is no share."""
    rows, value = len(parts_NK), value_of(parts_NK, quantity)
    if right_or_wrong(parts_NK) and rows:
        return Metric(value, *wilson(float(parts_NK.sum()), rows, options.confidence), rows)
    if rows < 2:
        return Metric(value, math.nan, math.nan, rows)
    low, high = percentile(_resampled(parts_NK, quantity, options.resamples, rng), options.confidence)
    return Metric(value, min(low, value), max(high, value), rows)


def difference_of(
    inside_NK: FloatArray, rest_NK: FloatArray, quantity: Quantity, options: JudgeOptions, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return the quantity on some rows less that on others, and the ends of its interval.

    Shares: the square-and-add interval (Newcombe 1998, "Interval estimation for the difference between independent
    proportions", method 10, without continuity correction). Others: bootstrap, each group by itself.
    """
    value = value_of(inside_NK, quantity) - value_of(rest_NK, quantity)
    if right_or_wrong(inside_NK) and right_or_wrong(rest_NK) and len(inside_NK) and len(rest_NK):
        counts = (float(inside_NK.sum()), len(inside_NK)), (float(rest_NK.sum()), len(rest_NK))
        return newcombe(counts[0], counts[1], options.confidence)
    if min(len(inside_NK), len(rest_NK)) < 2:
        return value, math.nan, math.nan
    drawn = [_resampled(parts_NK, quantity, options.resamples, rng) for parts_NK in (inside_NK, rest_NK)]
    low, high = percentile(drawn[0] - drawn[1], options.confidence)
    return value, min(low, value), max(high, value)


def newcombe(one: tuple[float, int], other: tuple[float, int], confidence: float = 0.95) -> tuple[float, float, float]:
    """Return the difference of two independent shares and the ends of its interval; see `difference_of`.

    Args:
        one: Successes and trials of the first, trials above 0.
        other: Those of the second, which is taken away.
        confidence: Between 0 and 1.

    Example:
        >>> [round(number, 4) for number in newcombe((56, 70), (48, 80))]  # Newcombe 1998, table II, (a)
        [0.2, 0.0524, 0.3339]
    """
    (p_1, (low_1, high_1)), (p_2, (low_2, high_2)) = (
        (right / rows, wilson(right, rows, confidence)) for right, rows in (one, other)
    )
    value = p_1 - p_2
    below, above = math.hypot(p_1 - low_1, high_2 - p_2), math.hypot(high_1 - p_1, p_2 - low_2)
    return value, value - below, value + above


def p_values(
    parts_NK: FloatArray, inside_NS: Array, quantity: Quantity, resamples: int, rng: np.random.Generator
) -> FloatArray:
    """Return for each group the two-sided p-value of its rows being like the rest (S,); NaN where there is no rest.

    Args:
        parts_NK: What each row adds.
        inside_NS: Which rows are in which group, true or false.
        quantity: What is made of the sums.
        resamples: Random groups of the same size that each is held against.
        rng: Draws them.
    """
    if right_or_wrong(parts_NK):
        right_N, known = parts_NK[:, 0] > 0, _log_factorials(len(parts_NK))
        return np.array([_fisher(right_N, inside_N, known) for inside_N in inside_NS.T])
    rows, counts_S = len(parts_NK), inside_NS.sum(axis=0)
    found_S: FloatArray = np.full(len(counts_S), np.nan)
    large_S = np.minimum(counts_S, rows - counts_S) >= _LARGE
    some_S = (counts_S > 0) & (counts_S < rows)
    by_limit_S = some_S & large_S & (rows * inside_NS.shape[1] * parts_NK.shape[1] * resamples > MOST_VISITS)
    for group in np.flatnonzero(by_limit_S).tolist():
        drawn_RK = _limit(parts_NK, int(counts_S[group]), resamples, rng)
        found_S[group] = _share_reached(parts_NK, inside_NS[:, group], drawn_RK, quantity)
    drawn = np.flatnonzero(some_S & ~by_limit_S)
    if rows * resamples > _MOST_PERMUTED:
        for group in drawn[np.minimum(counts_S, rows - counts_S)[drawn] < _LARGE].tolist():
            found_S[group] = _share_reached(
                parts_NK, inside_NS[:, group], _few(parts_NK, counts_S[group], resamples, rng), quantity
            )
        drawn = drawn[np.isnan(found_S[drawn])]
    if len(drawn):
        sums_RSK = _permuted(parts_NK, inside_NS[:, drawn], resamples, rng)
        for place, group in enumerate(drawn.tolist()):
            found_S[group] = _share_reached(parts_NK, inside_NS[:, group], sums_RSK[:, place], quantity)
    return found_S


def fisher(right_N: Array, inside_N: Array) -> float:
    """Return the two-sided p-value of Fisher's exact test: are rows of a group right as often as the rest; NaN without a rest.

    All tables with the same margins that are no likelier than the one seen count (Fisher 1922, Freeman & Halton 1951).

    Args:
        right_N: Which rows are right.
        inside_N: Which rows are in the group.
    """
    return _fisher(right_N, inside_N, _log_factorials(len(right_N)))


def _log_factorials(largest: int) -> FloatArray:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, largest + 1)))])


def _fisher(right_N: Array, inside_N: Array, log_factorials: FloatArray) -> float:
    rows, right, inside = len(right_N), int(right_N.sum()), int(inside_N.sum())
    if not 0 < inside < rows:
        return math.nan
    count = np.arange(max(0, inside + right - rows), min(inside, right) + 1)
    log_ways = -log_factorials[[count, right - count, inside - count, rows - right - inside + count]].sum(axis=0)
    weights = np.exp(log_ways - log_ways.max())
    seen = int((right_N & inside_N).sum()) - int(count[0])
    return float(min(1.0, weights[weights <= weights[seen] * (1 + 1e-7)].sum() / weights.sum()))


def p_worse(costs_N: FloatArray, inside_N: Array, margin: float, resamples: int, rng: np.random.Generator) -> float:
    """Return the one-sided p-value of some rows costing no more than the rest and a margin, by a randomisation test.

    Less the margin, their costs would be like those of any other rows. Small groups are drawn with replacement, which makes the
    p-value a little larger.

    Args:
        costs_N: How bad the answer to each row is.
        inside_N: Which rows are in the group, true or false.
        margin: What they may cost more.
        resamples: Random groups that the one seen is held against.
        rng: Draws them.
    """
    inside, rest = costs_N[inside_N] - margin, costs_N[~inside_N]
    if not len(inside) or not len(rest):
        return math.nan
    both_N1 = np.concatenate([inside, rest])[:, None]
    if len(inside) >= _LARGE:
        drawn_R = _limit(both_N1, len(inside), resamples, rng)[:, 0]
    elif len(inside) <= _SMALL_SHARE * len(both_N1):
        drawn_R = _few(both_N1, len(inside), resamples, rng)[:, 0]
    else:
        group_N1 = (np.arange(len(both_N1)) < len(inside))[:, None]
        drawn_R = _permuted(both_N1, group_N1, resamples, rng)[:, 0, 0]
    total = float(inside.sum())
    return float(((drawn_R >= total - 1e-9 * max(1.0, abs(total))).sum() + 1) / (resamples + 1))


def _resampled(parts_NK: FloatArray, quantity: Quantity, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Return the quantity on bootstrap samples of the rows (R,)."""
    rows = len(parts_NK)
    if parts_NK.size * resamples > _MOST_DRAWN:
        centred_NK = parts_NK - parts_NK.mean(axis=0)
        sums_RK = rng.multivariate_normal(parts_NK.sum(axis=0), centred_NK.T @ centred_NK, size=resamples)
    else:
        sums_RK = np.concatenate([weights_NR.T @ parts_NK for weights_NR in resample_weights(rows, resamples, rng)])
    return quantity.of_sums(sums_RK, rows)


def _share_reached(parts_NK: FloatArray, inside_N: Array, drawn_RK: FloatArray, quantity: Quantity) -> float:
    """Return the share of random groups, the one seen included, that differ from the rest by at least as much as it does."""
    rows, count = len(parts_NK), int(inside_N.sum())
    total_K = parts_NK.sum(axis=0)

    def differences(sums_RK: FloatArray) -> FloatArray:
        found: FloatArray = quantity.of_sums(sums_RK, count) - quantity.of_sums(total_K - sums_RK, rows - count)
        return found

    seen = abs(float(differences(parts_NK[inside_N > 0].sum(axis=0)[None])[0]))
    reached = int((np.abs(differences(drawn_RK)) >= seen * (1 - 1e-9) - 1e-300).sum())
    return (reached + 1) / (len(drawn_RK) + 1)


def _permuted(parts_NK: FloatArray, inside_NS: Array, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Return the sums of random groups of the same sizes (R, S, K): all groups with the rows in the same new order."""
    rows, inside = len(parts_NK), inside_NS.astype(np.float64)
    step, found = max(1, CHUNK_NUMBERS // rows), []
    for start in range(0, resamples, step):
        order_RN = rng.permuted(np.tile(np.arange(rows), (min(step, resamples - start), 1)), axis=1)
        found.append(np.stack([part_N[order_RN] @ inside for part_N in parts_NK.T], axis=2))
    return np.concatenate(found)


def _few(parts_NK: FloatArray, count: int, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Return sums of random groups of a few of very many rows, or of all but a few, drawn with replacement."""
    rows = len(parts_NK)
    few = min(count, rows - count)
    sums_RK: FloatArray = parts_NK[rng.integers(0, rows, size=(resamples, few))].sum(axis=1)
    return sums_RK if few == count else parts_NK.sum(axis=0) - sums_RK


def _limit(parts_NK: FloatArray, count: int, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Return sums of large random groups from their normal limit: those of `count` of N rows drawn without replacement."""
    rows, mean_K = len(parts_NK), parts_NK.mean(axis=0)
    centred_NK = parts_NK - mean_K
    spread_KK = centred_NK.T @ centred_NK / rows * (count * (rows - count) / max(rows - 1, 1))
    return rng.multivariate_normal(count * mean_K, spread_KK, size=resamples)
