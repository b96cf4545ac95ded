"""Is B better than A on the same rows? McNemar's test, the paired difference of accuracies, one verdict.

Only rows on which exactly one of the two is right say anything. Their split is a fair coin if neither is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from regraft.evaluation.intervals import percentile, quantile_of_normal, wilson
from regraft.evaluation.measure import decide
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.rows import checked
from regraft.types import Array, FloatArray, Metric

Verdict = Literal["better", "no evidence", "worse"]
_NARROW = " The test is exact and decides; the interval is resampled, which makes it a little narrow on few rows."
_RIGHT, _NEARER = ("only_a_right", "only_b_right"), ("nearer_a", "nearer_b")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the same rows say about B against A.

    Args:
        a: Name of what stood before (the lower rung, the older artifact).
        b: Name of what is held against it.
        difference: Accuracy (or `quantity`) of B minus that of A, with its paired interval.
        p_value: Two-sided, of McNemar's exact test, or of the randomisation test of `regraft.evaluation.paired`.
        only_a_right: Rows that A has right and B wrong; with a `quantity` rows whose answer by A is nearer.
        only_b_right: Rows that B has right and A wrong, or is nearer on.
        verdict: "better" and "worse" are about B.
        smallest_detectable: Difference that so many rows would probably have shown, see `smallest_detectable`.
        quantity: Registered name of the metric that is compared, where answers are not simply right or wrong; empty for the
            accuracy.
    """

    a: str
    b: str
    difference: Metric
    p_value: float
    only_a_right: int
    only_b_right: int
    verdict: Verdict
    smallest_detectable: float
    quantity: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as one JSON object; with a quantity, "nearer_a" and "nearer_b" count rows."""
        counted = _NEARER if self.quantity else _RIGHT
        return {
            "a": self.a,
            "b": self.b,
            "verdict": self.verdict,
            "difference": self.difference.to_json(),
            "test": "paired randomisation, two-sided" if self.quantity else "McNemar, exact binomial, two-sided",
            **({"quantity": self.quantity} if self.quantity else {}),
            "p_value": self.p_value,
            counted[0]: self.only_a_right,
            counted[1]: self.only_b_right,
            "smallest_detectable_difference": self.smallest_detectable,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Comparison:
        """Return the comparison that `to_json` wrote."""
        quantity = values.get("quantity", "")
        counted = _NEARER if quantity else _RIGHT
        return cls(
            a=values["a"],
            b=values["b"],
            difference=Metric(**values["difference"]),
            p_value=values["p_value"],
            only_a_right=values[counted[0]],
            only_b_right=values[counted[1]],
            verdict=values["verdict"],
            smallest_detectable=values["smallest_detectable_difference"],
            quantity=quantity,
        )

    def sentence(self) -> str:
        """Say the verdict in one sentence, differences in percentage points of accuracy or in the quantity compared."""
        if self.quantity:
            return self._sentence_of_quantity()
        value, low, high = (100 * end for end in (self.difference.value, self.difference.low, self.difference.high))
        numbers = f"{value:+.1f} points [{low:.1f}, {high:.1f}], McNemar p {_p(self.p_value)}, n = {self.difference.n:,}"
        if self.verdict != "no evidence":
            return f"{self.b} is {self.verdict} than {self.a}: {numbers}."
        small = 100 * self.smallest_detectable
        told = f"No evidence that {self.b} and {self.a} differ: {numbers}. Only from about {small:.1f} points would it show."
        return told + (_NARROW if low > 0 or high < 0 else "")

    def _sentence_of_quantity(self) -> str:
        value, low, high = (_signed(end) for end in (self.difference.value, self.difference.low, self.difference.high))
        numbers = (
            f"{self.quantity} {value} [{low}, {high}], paired randomisation p {_p(self.p_value)}, n = {self.difference.n:,}"
        )
        if self.verdict != "no evidence":
            return f"{self.b} is {self.verdict} than {self.a}: {numbers}."
        small = f"Only from about {self.smallest_detectable:.3g} would it show."
        if not self.smallest_detectable:
            small = "Both are as near on every row."
        return f"No evidence that {self.b} and {self.a} differ: {numbers}. {small}"

    def shown(self) -> str:
        """Return the difference as it stands in a table: points of accuracy, or in the quantity compared."""
        return _signed(self.difference.value) if self.quantity else f"{100 * self.difference.value:+.1f}"


def _signed(value: float) -> str:
    return f"{value:+,.0f}" if abs(value) >= 10_000 else f"{value:+.3g}"


def mcnemar(only_a_right: int, only_b_right: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    The smaller count under Binomial(only_a_right + only_b_right, 1/2), doubled (McNemar 1947; the exact conditional test in
    Fagerland, Lydersen & Laake 2013). Exact rather than mid-p: it never calls equal models different more often than stated.

    Args:
        only_a_right: Rows that only A has right, >= 0.
        only_b_right: Rows that only B has right, >= 0.

    Example:
        >>> mcnemar(0, 6)
        0.03125
    """
    trials, fewer = only_a_right + only_b_right, min(only_a_right, only_b_right)
    if only_a_right == only_b_right:
        return 1.0
    picked = np.arange(1, fewer + 1, dtype=np.float64)
    log_ways = np.concatenate([[0.0], np.cumsum(np.log((trials - picked + 1) / picked))])
    largest = log_ways.max()
    log_tail = float(largest + np.log(np.exp(log_ways - largest).sum())) + (1 - trials) * float(np.log(2.0))
    return min(1.0, float(np.exp(log_tail)))


def smallest_detectable(rows: int, discordant: int, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return about the smallest true difference of accuracies that McNemar's test on so many rows finds with chance `power`.

    Solves sqrt(n) d = z_a sqrt(s) + z_b sqrt(s - d^2) for d (Connor 1987, "Sample size for testing differences in proportions
    for the paired-sample design"), with s the share of discordant rows; where none was seen, the upper end of Wilson's interval
    stands for s. Approximate: the exact test is a little weaker on few rows.

    Args:
        rows: Rows judged, n.
        discordant: Rows on which exactly one of the two is right.
        alpha: Level of the two-sided test.
        power: Chance of finding it.
    """
    share = discordant / rows if discordant else wilson(0, rows, 1 - alpha)[1]
    z_a, z_b = quantile_of_normal(1 - alpha / 2), quantile_of_normal(power)
    inner = max(0.0, rows + z_b**2 - z_a**2)
    found = np.sqrt(share) * (np.sqrt(rows) * z_a + z_b * np.sqrt(inner)) / (rows + z_b**2)
    return float(min(1.0, found))


def compare_predictions(
    targets_N: Array,
    probabilities_a_NC: FloatArray,
    probabilities_b_NC: FloatArray,
    names: tuple[str, str] = ("a", "b"),
    *,
    options: JudgeOptions | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare two models on the same rows; "better" means that B is better than A.

    Args:
        targets_N: Class index of each row, 0 to C - 1.
        probabilities_a_NC: What A gave, in the same class order.
        probabilities_b_NC: What B gave.
        names: What to call A and B.
        options: Resamples, confidence and power.
        seed: Seeds the resamples.

    Raises:
        DataError: There are no rows, or arrays do not fit.
    """
    targets_N, probabilities_a_NC = checked(targets_N, probabilities_a_NC, names[0])
    targets_N, probabilities_b_NC = checked(targets_N, probabilities_b_NC, names[1])
    right_a, right_b = decide(probabilities_a_NC) == targets_N, decide(probabilities_b_NC) == targets_N
    return compare_right(right_a, right_b, names, options=options, seed=seed)


def compare_right(
    right_a_N: Array, right_b_N: Array, names: tuple[str, str], *, options: JudgeOptions | None = None, seed: int = 0
) -> Comparison:
    """Compare two models by which rows each has right (N,), in the same order."""
    options = options or JudgeOptions()
    rows = len(right_a_N)
    only_a, only_b = int((right_a_N & ~right_b_N).sum()), int((right_b_N & ~right_a_N).sum())
    alpha = 1 - options.confidence
    p_value = mcnemar(only_a, only_b)
    verdict: Verdict = "no evidence"
    if p_value < alpha:
        verdict = "better" if only_b > only_a else "worse"
    low, high = paired_interval(only_a, only_b, rows, options, np.random.default_rng(seed))
    return Comparison(
        a=names[0],
        b=names[1],
        difference=Metric((only_b - only_a) / rows, low, high, rows),
        p_value=p_value,
        only_a_right=only_a,
        only_b_right=only_b,
        verdict=verdict,
        smallest_detectable=smallest_detectable(rows, only_a + only_b, alpha, options.power),
    )


def paired_interval(
    only_a_right: int, only_b_right: int, rows: int, options: JudgeOptions, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the interval of the accuracy difference: paired percentile bootstrap over rows.

    A resample of rows is one draw of the three counts. Where all rows behave alike and the bootstrap would see no spread, it is
    the closed form for a difference of two proportions (Newcombe 1998, method 10, taking the two shares as uncorrelated).
    """
    value = (only_b_right - only_a_right) / rows
    shares = np.array([only_a_right, only_b_right, rows - only_a_right - only_b_right]) / rows
    if np.count_nonzero(shares) > 1:
        drawn_R3 = rng.multinomial(rows, shares, size=options.resamples)
        low, high = percentile((drawn_R3[:, 1] - drawn_R3[:, 0]) / rows, options.confidence)
        return min(low, value), max(high, value)
    (low_a, high_a), (low_b, high_b) = (wilson(count, rows, options.confidence) for count in (only_a_right, only_b_right))
    below = np.hypot(shares[1] - low_b, high_a - shares[0])
    above = np.hypot(high_b - shares[1], shares[0] - low_a)
    return max(-1.0, value - float(below)), min(1.0, value + float(above))


def _p(p_value: float) -> str:
    return f"= {p_value:.2g}" if p_value >= 0.0001 else "< 0.0001"
