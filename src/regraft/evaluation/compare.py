"""Is B better than A on the same rows? McNemar's test, the paired difference of accuracies, one verdict.

Only rows on which exactly one of the two is right say anything. Their split is a fair coin if neither is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from regraft.evaluation.holm import holm
from regraft.evaluation.measure import decide
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.rows import checked
from regraft.evaluation.shares import paired_interval, quantile_of_normal, wilson
from regraft.types import Array, FloatArray, Metric

Verdict = Literal["better", "no evidence", "worse"]
_RIGHT, _NEARER = ("only_a_right", "only_b_right"), ("nearer_a", "nearer_b")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the same rows say about B against A.

    Args:
        a: Name of what stood before (the lower rung, the older artifact).
        b: Name of what is held against it.
        difference: Accuracy (or `quantity`) of B minus that of A, with its paired interval, which holds 0 exactly if the test
            finds nothing.
        p_value: Two-sided, of McNemar's exact test, or of the randomisation test of `regraft.evaluation.paired`.
        only_a_right: Rows that A has right and B wrong; with a `quantity` rows whose answer by A is nearer.
        only_b_right: Rows that B has right and A wrong, or is nearer on.
        verdict: "better" and "worse" are about B.
        smallest_detectable: Difference that so many rows would probably have shown, see `smallest_detectable`.
        quantity: Registered name of the metric that is compared, where answers are not simply right or wrong; empty for the
            accuracy.
        rows_needed: Rows on which the difference that was seen would probably be found, if it is the true one; nothing where
            none was seen.
        groups: How many groups of rows were drawn and exchanged as one; 0 where each row is by itself.
        p_holm: The p-value corrected for being one of `family` comparisons made at once, where it is; the verdict is then its.
        family: How many these are.
        seeds: Where ways to fit are compared, how many seeds A and B have.
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
    rows_needed: int | None = None
    groups: int = 0
    p_holm: float | None = None
    family: int = 1
    seeds: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as one JSON object; with a quantity, "nearer_a" and "nearer_b" count rows."""
        corrected = {} if self.p_holm is None else {"p_holm": self.p_holm, "family": self.family}
        counted = _NEARER if self.quantity else _RIGHT
        return {
            "a": self.a,
            "b": self.b,
            "verdict": self.verdict,
            "difference": self.difference.to_json(),
            "test": self.test,
            **({"quantity": self.quantity} if self.quantity else {}),
            "p_value": self.p_value,
            counted[0]: self.only_a_right,
            counted[1]: self.only_b_right,
            "smallest_detectable_difference": self.smallest_detectable,
            "rows_needed": self.rows_needed,
            **({"groups": self.groups} if self.groups else {}),
            **({"seeds": list(self.seeds)} if self.seeds else {}),
            **corrected,
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
            rows_needed=values.get("rows_needed"),
            groups=values.get("groups", 0),
            p_holm=values.get("p_holm"),
            family=values.get("family", 1),
            seeds=None if (seeds := values.get("seeds")) is None else (seeds[0], seeds[1]),
        )

    @property
    def p_decisive(self) -> float:
        """The p-value that decided: the corrected one where there is one."""
        return self.p_value if self.p_holm is None else self.p_holm

    @property
    def test(self) -> str:
        """What the p-value is of."""
        if self.seeds:
            return "Student's t over seeds and rows, two-sided"
        if self.groups:
            return "paired randomisation of whole groups, two-sided"
        return "paired randomisation, two-sided" if self.quantity else "McNemar, exact binomial, two-sided"

    def sentence(self) -> str:
        """Say the verdict in one sentence, differences in percentage points of accuracy or in the quantity compared."""
        numbers = f"{self._measured()}, {self._tested()}, n = {self.difference.n:,}"
        if self.verdict != "no evidence":
            return f"{self.b} is {self.verdict} than {self.a}: {numbers}."
        return f"No evidence that {self.b} and {self.a} differ: {numbers}. {self._needed()}"

    def _measured(self) -> str:
        """Return the difference with its interval as it is told."""
        value, low, high = self.difference.value, self.difference.low, self.difference.high
        if self.quantity:
            return f"{self.quantity} {_signed(value)} [{_signed(low)}, {_signed(high)}]"
        return f"{100 * value:+.1f} points [{100 * low:.1f}, {100 * high:.1f}]"

    def _tested(self) -> str:
        """Return the p-value as it is told, with what it is of and what it was corrected for."""
        name = "paired randomisation" if self.quantity or self.groups else "McNemar"
        name += f" of {self.groups:,} groups" if self.groups else ""
        if self.seeds:
            name = f"t over {self.seeds[0]} and {self.seeds[1]} seeds"
        told = f"{name} p {_p(self.p_value)}"
        return told if self.p_holm is None else f"{told} (Holm {_p(self.p_holm)}, one of {self.family})"

    def _needed(self) -> str:
        """Say from which difference on it would show, and on how many rows the one that was seen."""
        if self.quantity and not self.smallest_detectable:
            return "Both are as near on every row."
        small = f"{self.smallest_detectable:.3g}" if self.quantity else f"{100 * self.smallest_detectable:.1f} points"
        rows = self.rows_needed
        more = (
            "" if rows is None or rows <= self.difference.n else f"; the difference seen would need about {_rounded(rows)} rows"
        )
        return f"Only from about {small} would it show{more}."

    def shown(self) -> str:
        """Return the difference as it stands in a table: points of accuracy, or in the quantity compared."""
        return _signed(self.difference.value) if self.quantity else f"{100 * self.difference.value:+.1f}"


def corrected(family: Sequence[Comparison], confidence: float) -> list[Comparison]:
    """Return comparisons that are made at once with Holm's correction, and the verdicts that stand after it.

    Args:
        family: The comparisons; one alone stays as it is.
        confidence: A verdict other than "no evidence" needs a corrected p-value under one minus this.
    """
    if len(family) < 2:
        return list(family)
    adjusted = holm([comparison.p_value for comparison in family]).tolist()
    return [
        replace(
            comparison,
            p_holm=p_holm,
            family=len(family),
            verdict=comparison.verdict if p_holm < 1 - confidence else "no evidence",
        )
        for comparison, p_holm in zip(family, adjusted, strict=True)
    ]


def _rounded(rows: int) -> str:
    """Return a number of rows to two digits, which is all that such an estimate is worth."""
    digits = max(0, len(str(rows)) - 2)
    return f"{round(rows, -digits):,}"


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

    Solves sqrt(n) d = z_a sqrt(s) + z_b sqrt(s - d^2) + 1 / sqrt(n) for d (Connor 1987, "Sample size for testing differences in
    proportions for the paired-sample design"), with s the share of discordant rows; where none was seen, the upper end of
    Wilson's interval stands for s. The last term is the continuity correction that makes it right for the exact test (Fleiss,
    Levin & Paik 2003, section 2.4, applied to the discordant rows).

    Args:
        rows: Rows judged, n.
        discordant: Rows on which exactly one of the two is right.
        alpha: Level of the two-sided test.
        power: Chance of finding it.
    """
    share = discordant / rows if discordant else wilson(0, rows, 1 - alpha)[1]
    z_a, z_b = quantile_of_normal(1 - alpha / 2), quantile_of_normal(power)
    fixed, total = z_a * math.sqrt(share) + 1 / math.sqrt(rows), rows + z_b**2
    inner = rows * fixed**2 - total * (fixed**2 - z_b**2 * share)
    return min(1.0, (math.sqrt(rows) * fixed + math.sqrt(max(0.0, inner))) / total)


def rows_needed(rows: int, only_a_right: int, only_b_right: int, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Return about how many rows McNemar's test needs to find the difference that was seen, with chance `power`.

    The equation of `smallest_detectable` solved for n, with s the share of discordant rows and d the difference. Nothing where
    no difference was seen.

    Args:
        rows: Rows judged, n.
        only_a_right: Rows that only A has right.
        only_b_right: Rows that only B has right.
        alpha: Level of the two-sided test.
        power: Chance of finding it.

    Example:
        >>> rows_needed(400, 10, 12)
        17663
    """
    share, difference = (only_a_right + only_b_right) / rows, abs(only_b_right - only_a_right) / rows
    if not difference:
        return None
    z_a, z_b = quantile_of_normal(1 - alpha / 2), quantile_of_normal(power)
    spread = z_a * math.sqrt(share) + z_b * math.sqrt(max(0.0, share - difference**2))
    root = (spread + math.sqrt(spread**2 + 4 * difference)) / (2 * difference)
    return max(least_discordant(alpha), math.ceil(root**2))


def least_discordant(alpha: float = 0.05) -> int:
    """Return on how many rows two models must differ before McNemar's test can find anything: 2 / 2^n < alpha.

    Example:
        >>> least_discordant(0.05)
        6
    """
    return math.floor(math.log2(2 / alpha)) + 1


def compare_predictions(
    targets_N: Array,
    probabilities_a_NC: FloatArray,
    probabilities_b_NC: FloatArray,
    names: tuple[str, str] = ("a", "b"),
    *,
    options: JudgeOptions | None = None,
) -> Comparison:
    """Compare two models on the same rows; "better" means that B is better than A.

    Args:
        targets_N: Class index of each row, 0 to C - 1.
        probabilities_a_NC: What A gave, in the same class order.
        probabilities_b_NC: What B gave.
        names: What to call A and B.
        options: Confidence and power.

    Raises:
        DataError: There are no rows, or arrays do not fit.
    """
    targets_N, probabilities_a_NC = checked(targets_N, probabilities_a_NC, names[0])
    targets_N, probabilities_b_NC = checked(targets_N, probabilities_b_NC, names[1])
    right_a, right_b = decide(probabilities_a_NC) == targets_N, decide(probabilities_b_NC) == targets_N
    return compare_right(right_a, right_b, names, options=options)


def compare_right(
    right_a_N: Array, right_b_N: Array, names: tuple[str, str], *, options: JudgeOptions | None = None
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
    return Comparison(
        a=names[0],
        b=names[1],
        difference=Metric((only_b - only_a) / rows, *paired_interval(only_a, only_b, rows, options.confidence), rows),
        p_value=p_value,
        only_a_right=only_a,
        only_b_right=only_b,
        verdict=verdict,
        smallest_detectable=smallest_detectable(rows, only_a + only_b, alpha, options.power),
        rows_needed=rows_needed(rows, only_a, only_b, alpha, options.power),
    )


def _p(p_value: float) -> str:
    return f"= {p_value:.2g}" if p_value >= 0.0001 else "< 0.0001"
