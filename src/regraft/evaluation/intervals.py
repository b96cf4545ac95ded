"""How sure a number is.

Three ways, chosen by what is known about the number:

- a proportion (accuracy, recall, precision): the exact binomial interval where fewer than five rows are right or wrong,
  Wilson's elsewhere (`regraft.evaluation.shares`);
- a metric of the confusion matrix: bootstrap. Resampling N rows is the same as one multinomial draw of the table's cells, so
  that the cost does not grow with N. Where the metric is a mean of proportions (balanced accuracy, macro F1) and one of
  them is 0 or 1, the interval is never narrower than the closed form `mover`: a bootstrap takes a small class without errors
  for one that cannot err;
- any other metric: bootstrap over integer row weights, in chunks of bounded memory; beyond `MOST_VISITS` the normal limit of
  the same bootstrap, from the metric's influence function (Hampel 1974; for ROC-AUC this is DeLong et al. 1988). Where every
  resample gives the same perfect number, the interval is opened with `mover` too.

The ends are those of the bias-corrected and accelerated bootstrap, `bca`. Where rows belong together (`clusters`), groups of
rows are drawn, and proportions are judged on as many rows as the groups are worth.

Shapes: N rows, C classes, R resamples, K cells of the confusion matrix that hold rows, G groups of rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import NormalDist

import numpy as np

from regraft.evaluation.clusters import confidence_over, design_effect, group_sums, standard_error, units
from regraft.evaluation.measure import CountMeasure, Counts, Measure, count
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.shares import mover, proportion, quantile_of_normal, quantile_of_t, wilson
from regraft.types import Array, FloatArray, Metric

MOST_VISITS = 100_000_000
"""Numbers looked at for one interval (rows x classes x resamples); about two seconds of one core."""

CHUNK_NUMBERS = 1_000_000
"""Numbers held at a time while resampling (8 MB)."""

JACKKNIFE_UNITS = 2000
"""Up to so many rows or groups each is left out once, where a metric does not say how far rows pull it."""


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


def resample_groups(targets_N: Array, predicted_N: Array, classes: int, weights: Iterator[FloatArray]) -> Counts:
    """Count decisions under each weighting of the rows: what `resample_counts` draws, where rows are drawn in groups.

    Returns:
        Counts of shape (R, C).
    """
    chunks = [count(targets_N, predicted_N, classes, weights_NR) for weights_NR in weights]
    return Counts(*(np.concatenate(tables) for tables in zip(*chunks, strict=True)))


def resample_weights(
    rows: int, resamples: int, rng: np.random.Generator, groups_N: Array | None = None
) -> Iterator[FloatArray]:
    """Yield weightings of the rows (N, r), a few resamples at a time, whole numbers.

    Each column sums to N; where rows are drawn in groups, it has as many draws as there are groups.
    """
    drawn_from = units(rows, groups_N)
    for start, stop in _spans(resamples, rows):
        size = stop - start
        drawn_RN = rng.integers(0, drawn_from, size=(size, drawn_from))
        drawn_RN *= size
        drawn_RN += np.arange(size)[:, None]
        weights = np.bincount(drawn_RN.ravel(), minlength=drawn_from * size).reshape(drawn_from, size).astype(np.float64)
        yield weights if groups_N is None else weights[groups_N]


def percentile(values_R: FloatArray, confidence: float) -> tuple[float, float]:
    """Return the middle `confidence` of resampled values; resamples on which the metric is undefined (NaN) are left out."""
    defined = values_R[~np.isnan(values_R)]
    if not len(defined):
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def bca(
    values_R: FloatArray, value: float, influence_U: FloatArray | None, confidence: float, drawn_from: int
) -> tuple[float, float]:
    """Return the bias-corrected and accelerated bootstrap interval of a metric.

    Efron 1987, "Better bootstrap confidence intervals", (2.3) and (6.6): the share of resamples below the value corrects the
    bias, the skewness of the influence values is the acceleration. The quantiles are those of Student's t times the root of
    n / (n - 1), because a resample varies less than a sample (Hesterberg 2015, "What teachers should know about the bootstrap",
    section 5.3). Resamples on which the metric is undefined (NaN) are left out.

    Args:
        values_R: The metric on resamples.
        value: The metric on the rows as they are.
        influence_U: How far each row or group pulls the metric, mean 0, on any scale; without, nothing is accelerated.
        confidence: Between 0 and 1.
        drawn_from: Rows, or groups of rows, that were drawn from.
    """
    defined = values_R[~np.isnan(values_R)]
    if not len(defined):
        return math.nan, math.nan
    below = (float((defined < value).sum()) + 0.5 * float((defined == value).sum())) / len(defined)
    least = 1 / (len(defined) + 1)
    bias = quantile_of_normal(min(max(below, least), 1 - least))
    acceleration = _acceleration(influence_U)
    freedom = max(drawn_from - 1, 1)
    reach = quantile_of_t(0.5 + confidence / 2, freedom) * math.sqrt((freedom + 1) / freedom)
    ends = []
    for sign in (-1, 1):
        moved = bias + sign * reach
        slope = 1 - acceleration * moved
        ends.append(NormalDist().cdf(bias + moved / slope) if slope > 0 else (1.0 if sign > 0 else 0.0))
    low, high = np.quantile(defined, ends)
    return float(low), float(high)


def interval_of_counts(
    measure: CountMeasure,
    observed: Counts,
    resampled: Counts,
    confidence: float = 0.95,
    influence_U: FloatArray | None = None,
    effect: tuple[float, int] | None = None,
) -> tuple[float, float]:
    """Return the interval of a metric of the confusion matrix.

    Args:
        measure: The metric.
        observed: Counts of the rows as they are, R = 1.
        resampled: The same counts of resamples.
        confidence: Between 0 and 1.
        influence_U: How far each row or group pulls the metric.
        effect: Where rows are drawn in groups: by how many times fewer rows the metric is judged on (`design_effect`), and how
            many groups there are.
    """
    proportions = measure.proportions(observed)
    if proportions and len(proportions[0]) == 1:
        return share_interval(int(proportions[0][0]), int(proportions[1][0]), confidence, effect)
    rows = int(observed.truth_RC.sum())
    value = float(measure.of_counts(observed)[0])
    ends = bca(measure.of_counts(resampled), value, influence_U, confidence, effect[1] if effect else rows)
    if proportions is not None and bool(((proportions[0] == 0) | (proportions[0] == proportions[1])).any()):
        fewer, sure = (effect[0], confidence_over(effect[1], confidence)) if effect else (1.0, confidence)
        closed = mover(proportions[0] / fewer, proportions[1] / fewer, sure)
        ends = min(ends[0], closed[0]), max(ends[1], closed[1])
    return _enclose(measure, value, ends, observed.truth_RC.sum(axis=1), confidence)


def share_interval(right: int, rows: int, confidence: float, effect: tuple[float, int] | None = None) -> tuple[float, float]:
    """Return the interval of a proportion; where rows are drawn in groups, on as many rows as these are worth."""
    if effect is None:
        return proportion(right, rows, confidence)
    return wilson(right / effect[0], rows / effect[0], confidence_over(effect[1], confidence))


def influence_of_counts(measure: CountMeasure, targets_N: Array, predicted_N: Array, classes: int) -> FloatArray | None:
    """Return how far each row pulls a metric of the confusion matrix (N,): the jackknife, a row of each cell left out once.

    Nothing where the cells are so many that this would take long; there the interval is not accelerated.
    """
    cells_K, cell_N = np.unique(targets_N * np.int64(classes) + predicted_N, return_inverse=True)
    if len(cells_K) * classes > CHUNK_NUMBERS or len(targets_N) < 2:
        return None
    whole = count(targets_N, predicted_N, classes)
    left = Counts(*(np.repeat(table, len(cells_K), axis=0) for table in whole))
    places_K, truth_K, predicted_K = np.arange(len(cells_K)), cells_K // classes, cells_K % classes
    left.truth_RC[places_K, truth_K] -= 1
    left.predicted_RC[places_K, predicted_K] -= 1
    hit_K = truth_K == predicted_K
    left.right_RC[places_K[hit_K], truth_K[hit_K]] -= 1
    without_N = measure.of_counts(left)[cell_N]
    pulls_N: FloatArray = np.nanmean(without_N) - without_N if np.isfinite(without_N).any() else np.zeros(len(targets_N))
    return np.nan_to_num(pulls_N)


def effect_of(right_N: Array, groups_N: Array | None) -> tuple[float, int] | None:
    """Return what `interval_of_counts` takes as `effect`; nothing without groups."""
    return None if groups_N is None else (design_effect(right_N, groups_N), units(len(right_N), groups_N))


def measure_by_rows(
    measures: Mapping[str, Measure],
    targets_N: Array,
    outputs_NC: FloatArray,
    *,
    options: JudgeOptions,
    rng: np.random.Generator,
    groups_N: Array | None = None,
) -> dict[str, Metric]:
    """Return metrics that need more than counts with their intervals, all from the same resamples.

    One row (or one group) says nothing about spread: both ends are NaN, as they are where the metric itself is undefined.
    Resamples on which a metric is undefined are left out.
    """
    rows, classes = outputs_NC.shape
    resamples, confidence, drawn_from = options.resamples, options.confidence, units(rows, groups_N)
    values = {name: measure.value(targets_N, outputs_NC) for name, measure in measures.items()}
    ends = dict.fromkeys(measures, (math.nan, math.nan))
    known = {name: measure for name, measure in measures.items() if drawn_from > 1 and not math.isnan(values[name])}
    for name, measure in known.items():
        if measure.visits(rows, classes) * resamples > MOST_VISITS:
            influence_N = measure.influence(targets_N, outputs_NC)
            if influence_N is not None:
                sure = confidence if groups_N is None else confidence_over(drawn_from, confidence)
                half = quantile_of_normal(0.5 + sure / 2) * standard_error(influence_N, groups_N)
                ends[name] = values[name] - half, values[name] + half
    resampled: dict[str, list[FloatArray]] = {name: [] for name in known if math.isnan(ends[name][0])}
    for weights_NR in resample_weights(rows, resamples if resampled else 0, rng, groups_N):
        for name, chunks in resampled.items():
            chunks.append(known[name].values(targets_N, outputs_NC, weights_NR))
    for name, chunks in resampled.items():
        pulls_U = _pulls(known[name], targets_N, outputs_NC, groups_N)
        ends[name] = bca(np.concatenate(chunks), values[name], pulls_U, confidence, drawn_from)
    for name, measure in known.items():
        ends[name] = _enclose(measure, values[name], ends[name], measure.parts(targets_N, classes), confidence)
    return {name: Metric(value, *ends[name], rows) for name, value in values.items()}


def _pulls(measure: Measure, targets_N: Array, outputs_NC: FloatArray, groups_N: Array | None) -> FloatArray | None:
    """Return how far each row or group pulls a metric: what it says of itself, or what is missing when each is left out."""
    rows, classes = outputs_NC.shape
    influence_N = measure.influence(targets_N, outputs_NC)
    if influence_N is not None:
        return group_sums(influence_N, groups_N)
    left_out = units(rows, groups_N)
    if left_out > JACKKNIFE_UNITS or measure.visits(rows, classes) * left_out > MOST_VISITS:
        return None
    found = []
    for start, stop in _spans(left_out, rows):
        weights = np.ones((left_out, stop - start))
        weights[np.arange(start, stop), np.arange(stop - start)] = 0.0
        found.append(measure.values(targets_N, outputs_NC, weights if groups_N is None else weights[groups_N]))
    without_U = np.concatenate(found)
    defined = np.isfinite(without_U)
    return np.where(defined, without_U[defined].mean() - without_U, 0.0) if defined.any() else None


def _acceleration(influence_U: FloatArray | None) -> float:
    """Return the skewness of influence values over 6 root n (Efron 1987, (6.6)); 0 where they do not vary."""
    if influence_U is None:
        return 0.0
    squares = float(np.square(influence_U).sum())
    return float((influence_U**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0


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
