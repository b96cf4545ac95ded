"""Is B better than A on the same rows, by any metric? A paired randomisation test, and an interval that never contradicts it.

If neither is better, each row's two answers could as well stand the other way round. Rows are exchanged at random, and the
p-value is the share of exchanges whose difference is at least as large (Fisher 1935; for metrics that are no means Noreen 1989,
"Computer-intensive methods for testing hypotheses", and Yeh 2000 for F1). Up to `2 ** N <= resamples` all of them are tried.
Where rows belong together, whole groups are exchanged and drawn.

The interval of a mean is the same test inverted: the differences that it does not reject (`regraft.evaluation.typical`). Of any
other metric it is the paired bootstrap, bias-corrected and accelerated; an end that contradicts the test is moved to 0.

Shapes: N rows, K sums, R resamples, G groups of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from regraft.errors import OptionsError, Problem
from regraft.evaluation.clusters import group_sums, standard_error, units
from regraft.evaluation.compare import Comparison, Verdict
from regraft.evaluation.intervals import CHUNK_NUMBERS, JACKKNIFE_UNITS, MOST_VISITS, bca, resample_weights
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.shares import quantile_of_normal
from regraft.evaluation.typical import mean_test, normal_p
from regraft.types import Array, FloatArray, Metric

if TYPE_CHECKING:
    from regraft.evaluation.answer_kind import AnswerKind
    from regraft.evaluation.measure import Measure

_FEWEST_RESAMPLES = 200


@dataclass(frozen=True)
class Quantity:
    """What two models are compared by: a function of sums over rows.

    Args:
        name: Registered name of the metric that it is; empty for the accuracy.
        higher_is_better: Its direction.
        of_sums: Sums (R, K) and the number of rows to the metric (R,).
    """

    name: str
    higher_is_better: bool
    of_sums: Callable[[FloatArray, int], FloatArray]


class Tested(NamedTuple):
    """What a paired test found.

    Args:
        value: The difference, B minus A.
        p_value: Two-sided.
        low: Lower end of the interval.
        high: Upper end.
        error: Standard error of the difference.
    """

    value: float
    p_value: float
    low: float
    high: float
    error: float


def mean_of_rows(sums_RK: FloatArray, rows: int) -> FloatArray:
    """Return the mean over rows of the only sum (R,)."""
    means: FloatArray = sums_RK[:, 0] / rows
    return means


ACCURACY = Quantity("", True, mean_of_rows)
"""The share of right rows, where it cannot be McNemar's test that compares them."""


def compare_sums(
    parts: tuple[FloatArray, FloatArray],
    quantity: Quantity,
    names: tuple[str, str],
    *,
    costs: tuple[Array, Array] | None = None,
    options: JudgeOptions,
    seed: int = 0,
    groups_N: Array | None = None,
) -> Comparison:
    """Compare two models by what each row adds to sums.

    Args:
        parts: For A and for B what each row adds (N, K), rows in the same order.
        quantity: What is made of the sums.
        names: What to call A and B.
        costs: For A and for B how bad the answer to each row is (N,), to count who is nearer; the first sum if not given.
        options: Resamples, confidence and power.
        seed: Seeds exchanges and resamples.
        groups_N: Which rows belong together; each by itself if not given.
    """
    a_NK, b_NK = parts
    rng = np.random.default_rng(seed)
    if quantity.of_sums is mean_of_rows:
        moved_N = b_NK[:, 0] - a_NK[:, 0]
        tested = Tested(*mean_test(moved_N, groups_N, options.resamples, options.confidence, rng))
        sign = 1 if quantity.higher_is_better else -1
        costs = costs or (-sign * a_NK[:, 0], -sign * b_NK[:, 0])
    else:
        tested = _sums_test((group_sums(a_NK, groups_N), group_sums(b_NK, groups_N)), quantity, len(a_NK), options, rng)
    return _comparison(
        tested, (quantity.name, quantity.higher_is_better), names, costs or (a_NK[:, 0], b_NK[:, 0]), options, groups_N
    )


def compare_by(
    kind: AnswerKind,
    targets_N: Array,
    outputs: tuple[FloatArray, FloatArray],
    names: tuple[str, str],
    *,
    options: JudgeOptions,
    seed: int = 0,
    groups_N: Array | None = None,
) -> Comparison:
    """Compare two models by `options.metric`, or by what their kind of answers is compared by if none is named.

    Args:
        kind: Kind of the answers.
        targets_N: As `AnswerKind.checked` returned them.
        outputs: What A and B gave, the same.
        names: What to call A and B.
        options: The metric, resamples, confidence and power.
        seed: Seeds exchanges and resamples.
        groups_N: Which rows belong together; each by itself if not given.

    Raises:
        OptionsError: The metric is not registered, is none of such answers, or has no better end.
    """
    name, measure = compared_by(kind, options)
    if measure is None:
        return kind.compare(targets_N, outputs, names, options=options, seed=seed, groups_N=groups_N)
    better, losses = bool(measure.higher_is_better), [measure.of_rows(targets_N, outputs_NC) for outputs_NC in outputs]
    if losses[0] is not None and losses[1] is not None:
        quantity = Quantity(name, better, mean_of_rows)
        parts = losses[0][:, None], losses[1][:, None]
        return compare_sums(parts, quantity, names, options=options, seed=seed, groups_N=groups_N)
    tested = _metric_test(measure, targets_N, outputs, options, np.random.default_rng(seed), groups_N)
    costs = kind.costs(targets_N, outputs[0]), kind.costs(targets_N, outputs[1])
    return _comparison(tested, (name, better), names, costs, options, groups_N)


def compared_by(kind: AnswerKind, options: JudgeOptions) -> tuple[str, Measure | None]:
    """Return the metric that models are compared by, or none where it is what their kind of answers is compared by anyway.

    Raises:
        OptionsError: The metric is not registered, is none of such answers, or has no better end.
    """
    if options.metric is None:
        return kind.compared_by, None
    ((name, measure),) = kind.measures([options.metric]).items()
    if measure.higher_is_better is None:
        what = f"the metric '{name}' has no better end, so that nothing can be compared by it"
        raise OptionsError(Problem(what=what, where="judge.metric", fix=f"leave it out ({kind.compared_by} is used)"))
    return name, None if name == kind.compared_by else measure


def goodness_by(kind: AnswerKind, targets_N: Array, outputs_NC: FloatArray, options: JudgeOptions) -> float:
    """Return one number by which the strongest of several models is found, higher is better; by `options.metric` if named."""
    _, measure = compared_by(kind, options)
    if measure is None:
        return kind.goodness(targets_N, outputs_NC)
    value = measure.value(targets_N, outputs_NC)
    return -math.inf if math.isnan(value) else value if measure.higher_is_better else -value


def scored_by(kind: AnswerKind, targets_N: Array, outputs_NC: FloatArray, options: JudgeOptions) -> tuple[Quantity, FloatArray]:
    """Return what groups of rows are compared by, and what each row adds to its sums (N, K).

    It is `options.metric` where that is a mean over rows, else what `AnswerKind.scored` says.
    """
    name, measure = compared_by(kind, options)
    found_N = None if measure is None else measure.of_rows(targets_N, outputs_NC)
    if measure is None or found_N is None:
        return kind.scored(targets_N, outputs_NC)
    return Quantity(name, bool(measure.higher_is_better), mean_of_rows), found_N[:, None]


def reconciled(low: float, high: float, value: float, *, found: bool) -> tuple[float, float]:
    """Return the ends of an interval that hold the value, and hold 0 inside exactly if the test found nothing.

    Args:
        low: Lower end.
        high: Upper end.
        value: The difference that was seen.
        found: Whether the test rejects that there is none; then 0 is at most an end.
    """
    low, high = min(low, value), max(high, value)
    if not found:
        return min(low, 0.0), max(high, 0.0)
    return (max(low, 0.0), high) if value > 0 else (low, min(high, 0.0))


def _comparison(
    tested: Tested,
    measured: tuple[str, bool],
    names: tuple[str, str],
    costs: tuple[Array, Array],
    options: JudgeOptions,
    groups_N: Array | None,
) -> Comparison:
    name, higher_is_better = measured
    rows, alpha, value = len(costs[0]), 1 - options.confidence, tested.value
    found = tested.p_value < alpha and value != 0
    verdict: Verdict = "no evidence"
    if found:
        verdict = "better" if (value > 0) == higher_is_better else "worse"
    both = quantile_of_normal(1 - alpha / 2) + quantile_of_normal(options.power)
    needed = math.ceil(rows * (both * tested.error / value) ** 2) if value and math.isfinite(value) else None
    low, high = reconciled(tested.low, tested.high, value, found=found)
    return Comparison(
        a=names[0],
        b=names[1],
        difference=Metric(value, low, high, rows),
        p_value=tested.p_value,
        only_a_right=int((costs[0] < costs[1]).sum()),
        only_b_right=int((costs[1] < costs[0]).sum()),
        verdict=verdict,
        smallest_detectable=both * tested.error,
        quantity=name,
        rows_needed=needed,
        groups=0 if groups_N is None else units(rows, groups_N),
    )


def _difference(quantity: Quantity, a_RK: FloatArray, b_RK: FloatArray, rows: int) -> FloatArray:
    found: FloatArray = quantity.of_sums(b_RK, rows) - quantity.of_sums(a_RK, rows)
    return found


def _sums_test(
    parts: tuple[FloatArray, FloatArray], quantity: Quantity, rows: int, options: JudgeOptions, rng: np.random.Generator
) -> Tested:
    """Test what is made of sums; `parts` are those of each row, or of each group (U, K)."""
    a_UK, b_UK = parts
    a_K, b_K = a_UK.sum(axis=0), b_UK.sum(axis=0)
    value = float(_difference(quantity, a_K[None], b_K[None], rows)[0])

    def exchanged() -> Iterator[FloatArray]:
        for moved_RK in _moves(b_UK - a_UK, options.resamples, rng):
            yield _difference(quantity, a_K + moved_RK, b_K - moved_RK, rows)

    p_value = _share_reached(value, exchanged(), exhaustive=_all_tried(len(a_UK), options.resamples))
    drawn_R = _resampled(a_UK, b_UK, quantity, options.resamples, rng)
    without_U = _difference(quantity, a_K - a_UK, b_K - b_UK, rows) if len(a_UK) > 1 else np.zeros(1)
    low, high = bca(drawn_R, value, without_U.mean() - without_U, options.confidence, len(a_UK))
    return Tested(value, p_value, low, high, float(drawn_R.std()))


def _metric_test(
    measure: Measure,
    targets_N: Array,
    outputs: tuple[FloatArray, FloatArray],
    options: JudgeOptions,
    rng: np.random.Generator,
    groups_N: Array | None,
) -> Tested:
    """Test a metric that is no mean and no function of sums: it is computed for every exchange and resample."""
    a_NC, b_NC = outputs
    rows, drawn_from = len(targets_N), units(len(targets_N), groups_N)
    value = measure.value(targets_N, b_NC) - measure.value(targets_N, a_NC)
    visits = 2 * measure.visits(rows, a_NC.shape[1])
    pulls = [measure.influence(targets_N, outputs_NC) for outputs_NC in outputs]
    pulls_N = None if pulls[0] is None or pulls[1] is None else pulls[1] - pulls[0]
    if math.isnan(value) or drawn_from == 1:
        return Tested(value, 1.0, value, value, 0.0)
    if pulls_N is not None and visits * options.resamples > MOST_VISITS:
        error = standard_error(pulls_N, groups_N)
        half = quantile_of_normal(0.5 + options.confidence / 2) * error
        return Tested(value, normal_p(value, error), value - half, value + half, error)
    resamples = max(_FEWEST_RESAMPLES, min(options.resamples, MOST_VISITS // max(visits, 1)))

    def exchanged() -> Iterator[FloatArray]:
        for second_UR in _choices(drawn_from, resamples, rng):
            second_NR = second_UR if groups_N is None else second_UR[groups_N]
            yield measure.mixed(targets_N, outputs, second_NR) - measure.mixed(targets_N, outputs, 1.0 - second_NR)

    p_value = _share_reached(value, exchanged(), exhaustive=_all_tried(drawn_from, resamples))
    drawn = [_moved(measure, targets_N, outputs, weights) for weights in resample_weights(rows, resamples, rng, groups_N)]
    drawn_R = np.concatenate(drawn)
    influence_U = None if pulls_N is None else group_sums(pulls_N, groups_N)
    if influence_U is None and drawn_from <= JACKKNIFE_UNITS and visits * drawn_from <= MOST_VISITS:
        left_UU = 1.0 - np.eye(drawn_from)
        without_U = _moved(measure, targets_N, outputs, left_UU if groups_N is None else left_UU[groups_N])
        influence_U = np.nan_to_num(np.nanmean(without_U) - without_U)
    low, high = bca(drawn_R, value, influence_U, options.confidence, drawn_from)
    return Tested(value, p_value, low, high, float(np.nanstd(drawn_R)))


def _moved(measure: Measure, targets_N: Array, outputs: tuple[FloatArray, FloatArray], weights_NR: FloatArray) -> FloatArray:
    """Return the difference of the metric under each weighting of the rows (R,)."""
    found: FloatArray = measure.values(targets_N, outputs[1], weights_NR) - measure.values(targets_N, outputs[0], weights_NR)
    return found


def _share_reached(value: float, found: Iterator[FloatArray], *, exhaustive: bool) -> float:
    """Return the two-sided p-value: the share of exchanges whose difference is at least as large as the one seen."""
    reached = tried = 0
    near = abs(value) * (1 - 1e-9) - 1e-300  # the same sum in another order
    for found_R in found:
        reached += int((np.abs(found_R) >= near).sum())
        tried += len(found_R)
    # The exchange that was seen is one of the possible ones (Phipson & Smyth 2010, "Permutation P-values").
    return reached / tried if exhaustive else (reached + 1) / (tried + 1)


def _all_tried(exchanged: int, resamples: int) -> bool:
    return exchanged < 63 and 2**exchanged <= resamples


def _choices(exchanged: int, resamples: int, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Yield whose answer each row or group has (U, r), 1 for B, a few exchanges at a time; all of them where they are few."""
    if _all_tried(exchanged, resamples):
        yield (np.arange(2**exchanged) >> np.arange(exchanged)[:, None] & 1).astype(np.float64)
        return
    step = max(1, CHUNK_NUMBERS // exchanged)
    for start in range(0, resamples, step):
        yield rng.integers(0, 2, size=(min(step, resamples - start), exchanged)).astype(np.float64).T


def _moves(moves_UK: FloatArray, resamples: int, rng: np.random.Generator) -> Iterator[FloatArray]:
    """Yield what exchanges of rows or groups add to the sums of A, a few exchanges at a time."""
    exchanged, sums = moves_UK.shape
    if exchanged * sums * resamples > MOST_VISITS and not _all_tried(exchanged, resamples):
        # Each row is exchanged with chance 1/2: the sum has half the total as its mean, a quarter of the squares as covariance.
        yield rng.multivariate_normal(moves_UK.sum(axis=0) / 2, moves_UK.T @ moves_UK / 4, size=resamples)
        return
    for second_UR in _choices(exchanged, resamples, rng):
        yield second_UR.T @ moves_UK


def _resampled(a_UK: FloatArray, b_UK: FloatArray, quantity: Quantity, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Return the difference on bootstrap samples of the rows or groups, both models on the same ones (R,)."""
    joined_UJ, drawn_from, sums = np.concatenate([a_UK, b_UK], axis=1), len(a_UK), a_UK.shape[1]
    if drawn_from * sums * resamples > MOST_VISITS:
        centred_UJ = joined_UJ - joined_UJ.mean(axis=0)
        drawn = [rng.multivariate_normal(joined_UJ.sum(axis=0), centred_UJ.T @ centred_UJ, size=resamples)]
    else:
        drawn = [weights_UR.T @ joined_UJ for weights_UR in resample_weights(drawn_from, resamples, rng)]
    sums_RJ = np.concatenate(drawn)
    return _difference(quantity, sums_RJ[:, :sums], sums_RJ[:, sums:], drawn_from)


__all__ = [
    "ACCURACY",
    "Quantity",
    "Tested",
    "compare_by",
    "compare_sums",
    "compared_by",
    "goodness_by",
    "mean_of_rows",
    "reconciled",
    "scored_by",
]
