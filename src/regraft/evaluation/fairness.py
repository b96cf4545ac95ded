"""Are groups of people treated alike? How often each is given the positive answer, and how often where it is true.

Demographic parity: every group is given it equally often. Equal opportunity: every group is given it equally often where it is
true (Hardt, Price & Srebro 2016, "Equality of opportunity in supervised learning"). Both cannot hold where the groups differ in
how often it is true; which of them matters is not for a program to say.

As JSON, "fairness" of a report:

    column        what groups are made of
    positive      the label that is the positive answer; declared: whether it was named (`judge.positive`), or is the one whose
                  positive rates differ most
    groups        [{group, n, too_small, positive_rate, true_positive_rate, accuracy}], the three with {value, low, high, n};
                  with several labels, accuracy is of all labels of a row together
    differences   [{name, label, value, low, high, between: [a, b]}] of "demographic_parity_difference" and
                  "equal_opportunity_difference": the highest rate of a group less the lowest, over groups that are large
                  enough; without a declared label the largest over the labels. The interval is corrected for every pair of
                  groups, and every label, that could have been the one

Shapes: N rows, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import Problem, did_you_mean
from regraft.evaluation.answer_kind import AnswerKind
from regraft.evaluation.groups import newcombe
from regraft.evaluation.intervals import percentile
from regraft.evaluation.judge import metric_from_json, metric_json
from regraft.evaluation.metadata import Described
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.shares import wilson
from regraft.evaluation.slices import Group, groups_of
from regraft.options import JSON
from regraft.types import Array, FloatArray, Metric

if TYPE_CHECKING:
    from regraft.tasks.task import Task

FEWEST_ROWS = 30
"""Rows that a group must have to be held against others."""
FEWEST_TRUE = 10
"""Rows of a group of which the positive answer is true that it takes to compare how often they are given it."""
PARITY, OPPORTUNITY = "demographic_parity_difference", "equal_opportunity_difference"
_RATES = ("positive_rate", "true_positive_rate", "accuracy")


@dataclass(frozen=True, kw_only=True)
class FairGroup:
    """How one group is treated.

    Args:
        group: Its name.
        n: Rows.
        positive_rate: Share that is given the positive answer.
        true_positive_rate: Share of those of whom it is true that is given it; NaN where there are none.
        accuracy: Share that is answered right.
    """

    group: str
    n: int
    positive_rate: Metric
    true_positive_rate: Metric
    accuracy: Metric

    @property
    def too_small(self) -> bool:
        """Whether there are too few rows to hold the group against others."""
        return self.n < FEWEST_ROWS

    def to_json(self) -> dict[str, JSON]:
        """Return the group as one JSON object."""
        rates = {name: metric_json(getattr(self, name)) for name in _RATES}
        return {"group": self.group, "n": self.n, "too_small": self.too_small, **rates}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FairGroup:
        """Return the group that `to_json` wrote."""
        return cls(group=values["group"], n=values["n"], **{name: metric_from_json(values[name]) for name in _RATES})


@dataclass(frozen=True, kw_only=True)
class FairDifference:
    """How far apart two groups are.

    Args:
        name: What differs.
        label: The positive answer.
        value: The higher rate less the lower.
        low: Lower end of the interval.
        high: Upper end.
        between: The group with the higher rate, and the one with the lower.
    """

    name: str
    label: str
    value: float
    low: float
    high: float
    between: tuple[str, str]

    def to_json(self) -> dict[str, JSON]:
        """Return the difference as one JSON object."""
        ends = {"value": self.value, "low": self.low, "high": self.high}
        return {"name": self.name, "label": self.label, **ends, "between": list(self.between)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FairDifference:
        """Return the difference that `to_json` wrote."""
        first, second = values["between"]
        return cls(**{**values, "between": (first, second)})


@dataclass(frozen=True, kw_only=True)
class Fairness:
    """How groups are treated. The JSON form is described at the top of this file.

    Args:
        column: What groups are made of.
        positive: The label that is the positive answer.
        declared: Whether it was named.
        groups: The groups.
        differences: Between those that are furthest apart.
    """

    column: str
    positive: str
    declared: bool
    groups: tuple[FairGroup, ...]
    differences: tuple[FairDifference, ...]

    def to_json(self) -> dict[str, JSON]:
        """Return it as one JSON object."""
        return {
            "column": self.column,
            "positive": self.positive,
            "declared": self.declared,
            "groups": [group.to_json() for group in self.groups],
            "differences": [difference.to_json() for difference in self.differences],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Fairness:
        """Return what `to_json` wrote."""
        return cls(
            column=values["column"],
            positive=values["positive"],
            declared=values["declared"],
            groups=tuple(FairGroup.from_json(group) for group in values["groups"]),
            differences=tuple(FairDifference.from_json(one) for one in values["differences"]),
        )


@dataclass(frozen=True)
class _Rate:
    """How often each group is given one label.

    Args:
        label: The label.
        counts: Group -> successes and trials.
        large: Groups that may be held against others.
    """

    label: str
    counts: Mapping[str, tuple[int, int]]
    large: frozenset[str]

    def furthest(self, fewest: int) -> tuple[float, str, str]:
        """Return the largest difference between groups with enough trials, and which; -1 where there are not two."""
        shares = {name: right / rows for name, (right, rows) in self.counts.items() if name in self.large and rows >= fewest}
        if len(shares) < 2:
            return -1.0, "", ""
        high, low = max(shares, key=lambda group: shares[group]), min(shares, key=lambda group: shares[group])
        return shares[high] - shares[low], high, low


def positive_problems(options: JudgeOptions, task: Task) -> list[Problem]:
    """Return the problems of a positive label that no target has, or that stands without groups."""
    if options.positive is None:
        return []
    if options.fairness is None:
        fix = "name the column of the groups too: --set judge.fairness=COLUMN"
        return [
            Problem(what="a positive label is for fairness over groups", where="judge.positive", got=options.positive, fix=fix)
        ]
    names = [str(name) for part in task.parts for name in part.task.names]
    if options.positive in names:
        return []
    expected = ", ".join(names[:20]) or "a task of classes or labels"
    fix = did_you_mean(options.positive, names) if names else "leave judge.positive and judge.fairness out"
    what = f"there is no label '{options.positive}' that could be the positive answer"
    return [Problem(what=what, where="judge.positive", expected=expected, fix=fix)]


def fairness_of(
    kind: AnswerKind, targets_N: Array, outputs_NC: FloatArray, column: Described, options: JudgeOptions, seed: int
) -> tuple[Fairness | None, list[str]]:
    """Return how groups are treated, and what a reader must know; nothing where answers are no labels.

    Args:
        kind: The kind of answers.
        targets_N: As `AnswerKind.checked` returned them.
        outputs_NC: As `AnswerKind.checked` returned them.
        column: What groups are made of.
        options: Names the positive label; resamples and confidence.
        seed: Seeds the resamples.
    """
    labels = [str(label) for label in kind.columns]
    judged = [place for place, label in enumerate(labels) if options.positive in {None, label}]
    if not judged or kind.decided_for(outputs_NC, judged[0]) is None:
        return None, [f"fairness over '{column.name}' is left out: these answers are no labels"]
    groups = groups_of(column)
    if not groups:
        return None, [f"fairness over '{column.name}' is left out: all judged rows are of one group"]
    truth = kind.members(targets_N)
    none_N = np.zeros(len(targets_N), dtype=bool)
    given = {place: np.asarray(kind.decided_for(outputs_NC, place)) for place in range(len(labels))}
    right_N = np.logical_and.reduce([given[place] == truth.get(label, none_N) for place, label in enumerate(labels)])
    rates = [
        (
            _rate(labels[place], groups, given[place]),
            _rate(labels[place], groups, given[place], truth.get(labels[place], none_N)),
        )
        for place in judged
    ]
    rng = np.random.default_rng(seed)
    large = sum(group.inside_N.sum() >= FEWEST_ROWS for group in groups)
    choices = max(1, len(judged) * math.comb(int(large), 2))
    differences = [
        _difference(
            name, [pair[which] for pair in rates], fewest, 1 - (1 - options.confidence) / choices, options.resamples, rng
        )
        for which, (name, fewest) in enumerate(((PARITY, FEWEST_ROWS), (OPPORTUNITY, FEWEST_TRUE)))
    ]
    first = max(rates, key=lambda pair: pair[0].furthest(FEWEST_ROWS)[0])
    found = Fairness(
        column=column.name,
        positive=first[0].label,
        declared=options.positive is not None,
        groups=tuple(_group(group, first, right_N, options.confidence) for group in groups),
        differences=tuple(one for one in differences if one is not None),
    )
    return found, _notes(found, large < len(groups), [one is None for one in differences])


def _rate(label: str, groups: Sequence[Group], given_N: Array, among_N: Array | None = None) -> _Rate:
    """Return how often each group is given a label, among all of its rows or among some."""
    counts = {}
    for group in groups:
        inside_N = group.inside_N if among_N is None else group.inside_N & among_N
        counts[group.value] = int((given_N & inside_N).sum()), int(inside_N.sum())
    large = frozenset(group.value for group in groups if group.inside_N.sum() >= FEWEST_ROWS)
    return _Rate(label, counts, large)


def _difference(
    name: str, rates: Sequence[_Rate], fewest: int, confidence: float, resamples: int, rng: np.random.Generator
) -> FairDifference | None:
    """Return the largest difference over labels and groups, with the wider of the bootstrap's and the closed interval.

    A bootstrap sample of the rows of a group is one binomial draw; it sees no spread in a group that is never, or always, given
    the label, which is why the interval of Newcombe (1998) stands beside it.
    """
    value, best, (high, low) = max(
        ((found[0], rate, found[1:]) for rate in rates for found in [rate.furthest(fewest)]), key=lambda one: one[0]
    )
    if value < 0:
        return None
    one, other = best.counts[high], best.counts[low]
    _, *closed = newcombe(one, other, confidence)
    drawn = [rng.binomial(rows, right / rows, size=resamples) / rows for right, rows in (one, other)]
    ends = percentile(drawn[0] - drawn[1], confidence)
    return FairDifference(
        name=name,
        label=best.label,
        value=value,
        low=min(closed[0], ends[0]),
        high=max(closed[1], ends[1]),
        between=(high, low),
    )


def _group(group: Group, rates: tuple[_Rate, _Rate], right_N: Array, confidence: float) -> FairGroup:
    rows = int(group.inside_N.sum())
    (positive, _), (true_positive, true) = (rate.counts[group.value] for rate in rates)
    return FairGroup(
        group=group.value,
        n=rows,
        positive_rate=_share(positive, rows, confidence),
        true_positive_rate=_share(true_positive, true, confidence),
        accuracy=_share(int(right_N[group.inside_N].sum()), rows, confidence),
    )


def _share(right: int, rows: int, confidence: float) -> Metric:
    if not rows:
        return Metric(math.nan, math.nan, math.nan, 0)
    return Metric(right / rows, *wilson(right, rows, confidence), rows)


def _notes(found: Fairness, small: bool, lacking: Sequence[bool]) -> list[str]:
    notes = []
    if small:
        names = ", ".join(f"'{group.group}' ({group.n})" for group in found.groups if group.too_small)
        notes.append(f"fairness: groups of fewer than {FEWEST_ROWS} rows are too small to be held against others: {names}")
    for name, is_lacking in zip((PARITY, OPPORTUNITY), lacking, strict=True):
        if is_lacking:
            wants = f"{FEWEST_ROWS} rows" + (f", {FEWEST_TRUE} of them truly positive" if name == OPPORTUNITY else "")
            notes.append(f"fairness: {name} is undefined: it takes two groups of at least {wants}")
    return notes


__all__ = ["FairDifference", "FairGroup", "Fairness", "fairness_of", "positive_problems"]
