"""How sure a number is.

Three ways, chosen by what is known about the number:

- a proportion (accuracy, recall, precision): Wilson's score interval, which stays honest at 0 and 1;
- a metric of the confusion matrix: percentile bootstrap (Efron & Tibshirani 1993, section 13.3). Resampling N rows is the same
  as one multinomial draw of the table's cells, so that the cost does not grow with N. Where the metric is a mean of proportions
  (balanced accuracy, macro F1) the interval is never narrower than the closed form `mover`: a bootstrap takes a small class
  without errors for one that cannot err;
- any other metric: percentile bootstrap over integer row weights, in chunks of bounded memory; beyond `MOST_VISITS` the normal
  limit of the same bootstrap, from the metric's influence function (Hampel 1974; for ROC-AUC this is DeLong et al. 1988).
  Where every resample gives the same perfect number, the interval is opened with `mover` too.

Shapes: N rows, C classes, R resamples, K cells of the confusion matrix that hold rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import NormalDist

import numpy as np

from regraft.evaluation.measure import CountMeasure, Counts, Measure
from regraft.types import Array, FloatArray, Metric

MOST_VISITS = 100_000_000
"""Numbers looked at for one interval (rows x classes x resamples); about two seconds of one core."""

CHUNK_NUMBERS = 1_000_000
"""Numbers held at a time while resampling (8 MB)."""


def quantile_of_normal(probability: float) -> float:
    """Return z with P(Z <= z) = probability for a standard normal Z."""
    return NormalDist().inv_cdf(probability)


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


def resample_counts(targets_N: Array, predicted_N: Array, classes: int, resamples: int, rng: np.random.Generator) -> Counts:
    """Draw what is counted on `resamples` bootstrap samples of the rows.

    Drawing N rows with replacement gives each cell of the confusion matrix a multinomial count, so only the cells that hold
    rows are drawn, never the rows.

    Returns:
        Counts of shape (R, C), each resample N rows in total.
    """
    cells_K, rows_K = np.unique(targets_N * np.int64(classes) + predicted_N, return_counts=True)
    truth_K, predicted_K = cells_K // classes, cells_K % classes
    counts = Counts(*(np.zeros((resamples, classes), dtype=np.int64) for _ in range(3)))
    right_K = np.flatnonzero(truth_K == predicted_K)
    by_predicted_K = np.argsort(predicted_K, kind="stable")
    truth_starts, predicted_starts = _runs(truth_K), _runs(predicted_K[by_predicted_K])
    for start, stop in _spans(resamples, len(cells_K)):
        drawn_RK = rng.multinomial(len(targets_N), rows_K / len(targets_N), size=stop - start)
        counts.right_RC[start:stop, truth_K[right_K]] = drawn_RK[:, right_K]
        counts.truth_RC[start:stop, truth_K[truth_starts]] = np.add.reduceat(drawn_RK, truth_starts, axis=1)
        of_predicted = np.add.reduceat(drawn_RK[:, by_predicted_K], predicted_starts, axis=1)
        counts.predicted_RC[start:stop, predicted_K[by_predicted_K][predicted_starts]] = of_predicted
    return counts


def resample_weights(rows: int, resamples: int, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Yield weightings of the rows (N, r), a few resamples at a time; each column sums to N and each entry is an integer."""
    for start, stop in _spans(resamples, rows):
        size = stop - start
        drawn_RN = rng.integers(0, rows, size=(size, rows))
        drawn_RN *= size
        drawn_RN += np.arange(size)[:, None]
        yield np.bincount(drawn_RN.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)


def percentile(values_R: FloatArray, confidence: float) -> tuple[float, float]:
    """Return the middle `confidence` of resampled values; resamples on which the metric is undefined (NaN) are left out."""
    defined = values_R[~np.isnan(values_R)]
    if not len(defined):
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def interval_of_counts(
    measure: CountMeasure, observed: Counts, resampled: Counts, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the interval of a metric of the confusion matrix.

    Args:
        measure: The metric.
        observed: Counts of the rows as they are, R = 1.
        resampled: What `resample_counts` drew.
        confidence: Between 0 and 1.
    """
    proportions = measure.proportions(observed)
    if proportions and len(proportions[0]) == 1:
        return mover(*proportions, confidence)
    value = float(measure.of_counts(observed)[0])
    ends = percentile(measure.of_counts(resampled), confidence)
    if proportions:
        closed = mover(*proportions, confidence)
        ends = min(ends[0], closed[0]), max(ends[1], closed[1])
    return _enclose(measure, value, ends, observed.truth_RC.sum(axis=1), confidence)


def measure_by_rows(
    measures: Mapping[str, Measure],
    targets_N: Array,
    outputs_NC: FloatArray,
    *,
    resamples: int,
    confidence: float,
    rng: np.random.Generator,
) -> dict[str, Metric]:
    """Return metrics that need more than counts with their intervals, all from the same resamples.

    One row says nothing about spread: both ends are NaN, as they are where the metric itself is undefined. Resamples on which
    a metric is undefined are left out.
    """
    rows, classes = outputs_NC.shape
    values = {name: measure.value(targets_N, outputs_NC) for name, measure in measures.items()}
    ends = dict.fromkeys(measures, (math.nan, math.nan))
    known = {name: measure for name, measure in measures.items() if rows > 1 and not math.isnan(values[name])}
    for name, measure in known.items():
        if measure.visits(rows, classes) * resamples > MOST_VISITS:
            influence_N = measure.influence(targets_N, outputs_NC)
            if influence_N is not None:
                half = quantile_of_normal(0.5 + confidence / 2) * math.sqrt(float(np.square(influence_N).mean()) / rows)
                ends[name] = values[name] - half, values[name] + half
    resampled: dict[str, list[FloatArray]] = {name: [] for name in known if math.isnan(ends[name][0])}
    for weights_NR in resample_weights(rows, resamples if resampled else 0, rng):
        for name, chunks in resampled.items():
            chunks.append(known[name].values(targets_N, outputs_NC, weights_NR))
    ends |= {name: percentile(np.concatenate(chunks), confidence) for name, chunks in resampled.items()}
    for name, measure in known.items():
        ends[name] = _enclose(measure, values[name], ends[name], measure.parts(targets_N, classes), confidence)
    return {name: Metric(value, *ends[name], rows) for name, value in values.items()}


def _enclose(measure: Measure, value: float, ends: tuple[float, float], parts: Array, confidence: float) -> tuple[float, float]:
    """Widen the ends to hold the value and cut them at the metric's bounds; open them where a perfect value shows no spread."""
    low, high = max(min(ends[0], value), measure.bounds[0]), min(max(ends[1], value), measure.bounds[1])
    if low == high and low in measure.bounds and measure.bounds == (0.0, 1.0):
        return mover(low * parts, parts, confidence)
    return low, high


def _runs(sorted_K: Array) -> Array:
    return np.flatnonzero(np.r_[True, sorted_K[1:] != sorted_K[:-1]])


def _spans(resamples: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(1, min(resamples, CHUNK_NUMBERS // max(width, 1)))
    for start in range(0, resamples, step):
        yield start, min(start + step, resamples)
