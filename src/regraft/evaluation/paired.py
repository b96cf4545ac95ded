"""Is B better than A on the same rows, where answers are not simply right or wrong? A paired randomisation test.

If neither is better, each row's two answers could as well stand the other way round. Rows are exchanged at random, and the
p-value is the share of exchanges whose difference is at least as large (Fisher 1935; for metrics that are no means Noreen 1989,
"Computer-intensive methods for testing hypotheses", and Yeh 2000 for F1). Up to `2 ** N <= resamples` all of them are tried.

Shapes: N rows, K sums, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from regraft.evaluation.compare import Comparison, Verdict
from regraft.evaluation.intervals import CHUNK_NUMBERS, MOST_VISITS, percentile, quantile_of_normal, resample_weights
from regraft.evaluation.options import JudgeOptions
from regraft.types import Array, FloatArray, Metric


@dataclass(frozen=True)
class Quantity:
    """What two models are compared by: a function of sums over rows.

    Args:
        name: Registered name of the metric that it is.
        higher_is_better: Its direction.
        of_sums: Sums (R, K) and the number of rows to the metric (R,).
    """

    name: str
    higher_is_better: bool
    of_sums: Callable[[FloatArray, int], FloatArray]


def mean_of_rows(sums_RK: FloatArray, rows: int) -> FloatArray:
    """Return the mean over rows of the only sum (R,)."""
    means: FloatArray = sums_RK[:, 0] / rows
    return means


def compare_sums(
    parts: tuple[FloatArray, FloatArray],
    quantity: Quantity,
    names: tuple[str, str],
    *,
    costs: tuple[Array, Array] | None = None,
    options: JudgeOptions,
    seed: int = 0,
) -> Comparison:
    """Compare two models by what each row adds to sums.

    Args:
        parts: For A and for B what each row adds (N, K), rows in the same order.
        quantity: What is made of the sums.
        names: What to call A and B.
        costs: For A and for B how bad the answer to each row is (N,), to count who is nearer; the first sum if not given.
        options: Resamples, confidence and power.
        seed: Seeds exchanges and resamples.
    """
    a_NK, b_NK = parts
    rows, rng = len(a_NK), np.random.default_rng(seed)
    alpha = 1 - options.confidence
    value = float(_difference(quantity, a_NK.sum(axis=0)[None], b_NK.sum(axis=0)[None], rows)[0])
    p_value = _exchanged(a_NK, b_NK, quantity, value, options.resamples, rng)
    drawn_R = _resampled(a_NK, b_NK, quantity, options.resamples, rng)
    low, high = percentile(drawn_R, options.confidence)
    gain = value if quantity.higher_is_better else -value
    verdict: Verdict = "no evidence" if p_value >= alpha else ("better" if gain > 0 else "worse")
    cost_a_N, cost_b_N = costs or (a_NK[:, 0], b_NK[:, 0])
    both = quantile_of_normal(1 - alpha / 2) + quantile_of_normal(options.power)
    return Comparison(
        a=names[0],
        b=names[1],
        difference=Metric(value, min(low, value), max(high, value), rows),
        p_value=p_value,
        only_a_right=int((cost_a_N < cost_b_N).sum()),
        only_b_right=int((cost_b_N < cost_a_N).sum()),
        verdict=verdict,
        smallest_detectable=both * float(drawn_R.std()),
        quantity=quantity.name,
    )


def _difference(quantity: Quantity, a_RK: FloatArray, b_RK: FloatArray, rows: int) -> FloatArray:
    found: FloatArray = quantity.of_sums(b_RK, rows) - quantity.of_sums(a_RK, rows)
    return found


def _exchanged(
    a_NK: FloatArray, b_NK: FloatArray, quantity: Quantity, value: float, resamples: int, rng: np.random.Generator
) -> float:
    """Return the two-sided p-value over exchanges of rows."""
    rows, moves_NK = len(a_NK), b_NK - a_NK
    a_K, b_K = a_NK.sum(axis=0), b_NK.sum(axis=0)
    every = rows < 63 and 2**rows <= resamples
    reached = tried = 0
    near = abs(value) * (1 - 1e-9) - 1e-300  # the same sum in another order
    for moved_RK in _moves(moves_NK, resamples, rng, every=every):
        found_R = _difference(quantity, a_K + moved_RK, b_K - moved_RK, rows)
        reached += int((np.abs(found_R) >= near).sum())
        tried += len(found_R)
    # The exchange that was seen is one of the possible ones (Phipson & Smyth 2010, "Permutation P-values").
    return reached / tried if every else (reached + 1) / (tried + 1)


def _moves(moves_NK: FloatArray, resamples: int, rng: np.random.Generator, *, every: bool) -> Iterator[FloatArray]:
    """Yield what exchanges of rows add to the sums of A, a few exchanges at a time."""
    rows, sums = moves_NK.shape
    if every:
        yield (np.arange(2**rows)[:, None] >> np.arange(rows) & 1).astype(np.float64) @ moves_NK
    elif rows * sums * resamples > MOST_VISITS:
        # Each row is exchanged with chance 1/2: the sum has half the total as its mean, a quarter of the squares as covariance.
        yield rng.multivariate_normal(moves_NK.sum(axis=0) / 2, moves_NK.T @ moves_NK / 4, size=resamples)
    else:
        step = max(1, CHUNK_NUMBERS // rows)
        for start in range(0, resamples, step):
            yield rng.integers(0, 2, size=(min(step, resamples - start), rows)).astype(np.float64) @ moves_NK


def _resampled(a_NK: FloatArray, b_NK: FloatArray, quantity: Quantity, resamples: int, rng: np.random.Generator) -> FloatArray:
    """Return the difference on bootstrap samples of the rows, both models on the same ones (R,)."""
    joined_NJ, rows, sums = np.concatenate([a_NK, b_NK], axis=1), len(a_NK), a_NK.shape[1]
    if rows * sums * resamples > MOST_VISITS:
        centred_NJ = joined_NJ - joined_NJ.mean(axis=0)
        drawn = [rng.multivariate_normal(joined_NJ.sum(axis=0), centred_NJ.T @ centred_NJ, size=resamples)]
    else:
        drawn = [weights_NR.T @ joined_NJ for weights_NR in resample_weights(rows, resamples, rng)]
    sums_RJ = np.concatenate(drawn)
    return _difference(quantity, sums_RJ[:, :sums], sums_RJ[:, sums:], rows)
