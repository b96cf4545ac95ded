"""Weak slices: groups of rows that are answered much worse than the rest, found by themselves and tested honestly.

The rows are halved by the seed. Rules are searched on one half (`regraft.evaluation.weak_search`) and tested on the other,
which they have not seen; then the halves change places. A rule is reported where both hold on the half that tests it:

- its rows are worse than the rest by more than a twentieth of the standard deviation of the costs, by a one-sided randomisation
  test whose p-value, corrected after Holm for all rules tested on that half and doubled for the two halves, is below 0.05;
- they are worse by at least a fifth of it, which is a difference that matters (Cohen 1988: a small effect).

Costs are those of the metric that models are compared by: 0 or 1 for a class, the distance for a number; of label sets the
log-loss. What the model itself says (its confidence) and what is true (the class) make no rules: those are slices that are
shown in any case. Where a row is in several such groups, the strongest rule has it, and another one must be weak without it
too.

How much it takes (`bench/weak_slices.py`, 100 sets each): a slice of 3 % of the rows, right 20 points less often, is found
and named in 99 of 100 sets of 6,000 rows where the rest is right in 90 %, and in 97 of 100 sets of 8,000 rows where it is 80 %;
in 86 and 61 sets of 4,000. Where nothing is wrong, something was reported in 10 of 800 sets.

As JSON, "weak_slices" of a report, one entry a rule, the most certain first; empty where none was found, and left out where
none was looked for:

    rule          "country = IT and length > 180"
    n, share      rows that fulfil it, and which share of all
    metric        the metric, and value, low, high of it on the rows of the testing half, n_tested of them
    overall       the metric on all judged rows
    p_value       one-sided, of the testing half; p_holm corrected
    examples      numbers of up to five rows with the highest costs

Shapes: N rows, K sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from regraft.evaluation.answer_kind import AnswerKind
from regraft.evaluation.groups import interval_of, p_worse, value_of
from regraft.evaluation.holm import holm
from regraft.evaluation.judge import json_name, metric_name
from regraft.evaluation.metadata import Metadata
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.paired import Quantity, scored_by
from regraft.evaluation.slices import defined, number
from regraft.evaluation.weak_search import MARGIN, MATTERS, Candidate, candidates_of, conditions_of, fewest_rows
from regraft.options import JSON
from regraft.types import Array, FloatArray, Metric

FEWEST_ROWS = 200
"""Rows under which weak slices are not looked for."""
ALPHA = 0.05
_EXAMPLES = 5


@dataclass(frozen=True, kw_only=True)
class WeakSlice:
    """A group of rows that are answered much worse. The JSON form is described at the top of this file.

    Args:
        rule: Which rows.
        n: How many.
        share: Of all judged rows.
        metric: Registered name of the metric.
        found: It, with its interval, on the rows that tested the rule.
        overall: The metric on all rows.
        p_value: One-sided.
        p_holm: The same, corrected.
        examples: Numbers of some of the rows.
    """

    rule: str
    n: int
    share: float
    metric: str
    found: Metric
    overall: float
    p_value: float
    p_holm: float
    examples: tuple[int, ...] = ()

    def to_json(self) -> dict[str, JSON]:
        """Return the slice as one JSON object."""
        return {
            "rule": self.rule,
            "n": self.n,
            "share": self.share,
            "metric": json_name(self.metric),
            "value": defined(self.found.value),
            "low": defined(self.found.low),
            "high": defined(self.found.high),
            "n_tested": self.found.n,
            "overall": defined(self.overall),
            "p_value": self.p_value,
            "p_holm": self.p_holm,
            "examples": list(self.examples),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> WeakSlice:
        """Return the slice that `to_json` wrote."""
        value, low, high = (number(values[name]) for name in ("value", "low", "high"))
        return cls(
            rule=values["rule"],
            n=values["n"],
            share=values["share"],
            metric=metric_name(values["metric"])[1],
            found=Metric(value, low, high, values["n_tested"]),
            overall=number(values["overall"]),
            p_value=values["p_value"],
            p_holm=values["p_holm"],
            examples=tuple(values["examples"]),
        )


@dataclass(frozen=True)
class _Judged:
    """What rows are judged by.

    Args:
        quantity: What models are compared by.
        parts_NK: What each row adds to it.
        costs_N: How bad each row's answer is.
        options: Resamples and confidence.
    """

    quantity: Quantity
    parts_NK: FloatArray
    costs_N: FloatArray
    options: JudgeOptions


@dataclass(frozen=True)
class _Tested:
    candidate: Candidate
    rows: Array
    p_value: float
    p_holm: float


def weak_slices_of(
    kind: AnswerKind, targets_N: Array, outputs_NC: FloatArray, known: Metadata, options: JudgeOptions, seed: int
) -> tuple[WeakSlice, ...] | None:
    """Return the weak slices, the most certain first; None where there are too few rows to look for them.

    Args:
        kind: The kind of answers.
        targets_N: As `AnswerKind.checked` returned them.
        outputs_NC: As `AnswerKind.checked` returned them.
        known: What is known of the rows.
        options: Resamples and confidence.
        seed: Draws the halves, seeds trees, clusters and resamples.
    """
    if len(targets_N) < FEWEST_ROWS:
        return None
    quantity, parts_NK = scored_by(kind, targets_N, outputs_NC, options)
    alone = parts_NK.shape[1] == 1
    costs_N = parts_NK[:, 0] * (-1.0 if quantity.higher_is_better else 1.0) if alone else kind.costs(targets_N, outputs_NC)
    judged = _Judged(quantity, parts_NK, costs_N, options)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(targets_N))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    conditions = conditions_of(known, seed)
    found: list[_Tested] = []
    for searched, tests in (halves, halves[::-1]):
        candidates = candidates_of(conditions, known, costs_N, searched, seed)
        found += _tested(candidates, judged, tests, rng)
    shown = _apart(sorted(found, key=lambda one: (one.p_holm, -one.candidate.worth, one.candidate.rule)), judged)
    return tuple(_reported(one, judged, known, rng) for one in shown)


def _tested(candidates: list[Candidate], judged: _Judged, rows: Array, rng: np.random.Generator) -> list[_Tested]:
    """Return the candidates that rows which they were not found on confirm."""
    costs = judged.costs_N[rows]
    spread = float(costs.std())
    p_values = [
        p_worse(costs, candidate.inside_N[rows], MARGIN * spread, judged.options.resamples, rng) for candidate in candidates
    ]
    corrected = np.minimum(1.0, 2 * holm(p_values))
    found = []
    for candidate, p_value, p_holm in zip(candidates, p_values, corrected.tolist(), strict=True):
        if p_holm < ALPHA and _worse(costs, candidate.inside_N[rows]) >= MATTERS * spread:
            found.append(_Tested(candidate, rows, p_value, p_holm))
    return found


def _worse(costs_N: FloatArray, inside_N: Array) -> float:
    return float(costs_N[inside_N].mean() - costs_N[~inside_N].mean())


def _apart(found: list[_Tested], judged: _Judged) -> list[_Tested]:
    """Return the rules that are weak also without the rows of a stronger one."""
    kept: list[_Tested] = []
    spread, taken_N = float(judged.costs_N.std()), np.zeros(len(judged.costs_N), dtype=bool)
    for one in found:
        left = one.rows[~taken_N[one.rows]]
        inside = one.candidate.inside_N[left]
        if inside.sum() < fewest_rows(len(one.rows)) or inside.all():
            continue
        if _worse(judged.costs_N[left], inside) >= MATTERS * spread:
            kept.append(one)
            taken_N |= one.candidate.inside_N
    return kept


def _reported(one: _Tested, judged: _Judged, known: Metadata, rng: np.random.Generator) -> WeakSlice:
    inside_N = one.candidate.inside_N
    tested = one.rows[inside_N[one.rows]]
    every = np.flatnonzero(inside_N)
    worst = every[np.argsort(-judged.costs_N[every], kind="stable")][:_EXAMPLES]
    return WeakSlice(
        rule=one.candidate.rule,
        n=len(every),
        share=len(every) / len(inside_N),
        metric=judged.quantity.name,
        found=interval_of(judged.parts_NK[tested], judged.quantity, judged.options, rng),
        overall=value_of(judged.parts_NK, judged.quantity),
        p_value=one.p_value,
        p_holm=one.p_holm,
        examples=tuple(known.numbers_N[worst].tolist()),
    )
