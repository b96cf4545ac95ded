"""Slices: how well each group of rows is answered (a country, a length, a month, a class), held against the rest.

As JSON, "slices" of a report, one entry a slice:

    column        column of the data, or what was computed: "length", "script", "class", "target", "confidence"
    value         the value, "LOW to HIGH" of numbers, a month or a year, "(missing)"
    n             rows
    metrics       name -> {value, low, high, n}: the metric that models are compared by (accuracy, mae, micro_f1, ...)
    difference    {value, low, high}: that metric here less that in the rest
    p_value       two-sided: these rows are answered as the rest
    p_holm        the same, corrected for all slices that are shown (`regraft.evaluation.holm`)

Shapes: N rows, C columns of outputs, S slices.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regraft.evaluation.answer_kind import AnswerKind
from regraft.evaluation.groups import difference_of, interval_of, p_values
from regraft.evaluation.holm import holm
from regraft.evaluation.judge import metrics_from_json, metrics_json
from regraft.evaluation.metadata import FEW_VALUES, Described, Metadata, described
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.paired import scored_by
from regraft.options import JSON
from regraft.types import Array, FloatArray, Metric

MISSING = "(missing)"
OTHERS = "(other values)"
CONFIDENCE, CLASS, TARGET = "confidence", "class", "target"
MOST_SLICES = 400
FEWEST_ROWS = 5
"""Values of fewer rows stand together, where the column was not asked for."""
_PARTS = 4
_MOST_MONTHS = 24


@dataclass(frozen=True, kw_only=True)
class SliceRow:
    """How well the rows of one slice are answered. The JSON form is described at the top of this file.

    Args:
        column: What they are grouped by.
        value: Which group.
        metric: Registered name of the metric.
        found: It, with its interval.
        difference: Here less the rest: value, low, high; NaN where there is no rest or no spread.
        p_value: Of the difference; NaN where there is no rest.
        p_holm: The same, corrected.
    """

    column: str
    value: str
    metric: str
    found: Metric
    difference: tuple[float, float, float]
    p_value: float
    p_holm: float

    def to_json(self) -> dict[str, JSON]:
        """Return the slice as one JSON object."""
        return {
            "column": self.column,
            "value": self.value,
            "n": self.found.n,
            "metrics": metrics_json({self.metric: self.found}),
            "difference": dict(zip(("value", "low", "high"), map(defined, self.difference), strict=True)),
            "p_value": defined(self.p_value),
            "p_holm": defined(self.p_holm),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SliceRow:
        """Return the slice that `to_json` wrote."""
        ((metric, found),) = metrics_from_json(values["metrics"]).items()
        low, middle, high = (number(values["difference"][name]) for name in ("low", "value", "high"))
        return cls(
            column=values["column"],
            value=values["value"],
            metric=metric,
            found=found,
            difference=(middle, low, high),
            p_value=number(values["p_value"]),
            p_holm=number(values["p_holm"]),
        )


@dataclass(frozen=True)
class Group:
    """Some of the judged rows.

    Args:
        column: What they are grouped by.
        value: Which group.
        inside_N: Which rows are in it, true or false.
    """

    column: str
    value: str
    inside_N: Array


def slices_of(
    kind: AnswerKind, targets_N: Array, outputs_NC: FloatArray, known: Metadata, options: JudgeOptions, seed: int
) -> tuple[tuple[SliceRow, ...], list[str]]:
    """Return every slice, and what a reader must know.

    Args:
        kind: The kind of answers.
        targets_N: As `AnswerKind.checked` returned them.
        outputs_NC: As `AnswerKind.checked` returned them.
        known: What is known of the rows.
        options: Resamples and confidence.
        seed: Seeds the resamples.
    """
    groups = list(all_groups(kind, targets_N, outputs_NC, known))
    notes = []
    if len(groups) > MOST_SLICES:
        notes.append(
            f"the first {MOST_SLICES} of {len(groups):,} slices are shown: name the columns that matter (judge.slices)"
        )
        groups = groups[:MOST_SLICES]
    if not groups:
        return (), notes
    quantity, parts_NK = scored_by(kind, targets_N, outputs_NC, options)
    rng = np.random.default_rng(seed)
    p_S = p_values(parts_NK, np.stack([group.inside_N for group in groups], axis=1), quantity, options.resamples, rng)
    rows = []
    for group, p_value, corrected in zip(groups, p_S.tolist(), holm(p_S).tolist(), strict=True):
        inside_NK, rest_NK = parts_NK[group.inside_N], parts_NK[~group.inside_N]
        row = SliceRow(
            column=group.column,
            value=group.value,
            metric=quantity.name,
            found=interval_of(inside_NK, quantity, options, rng),
            difference=difference_of(inside_NK, rest_NK, quantity, options, rng),
            p_value=p_value,
            p_holm=corrected,
        )
        rows.append(row)
    return tuple(rows), notes


def all_groups(kind: AnswerKind, targets_N: Array, outputs_NC: FloatArray, known: Metadata) -> Iterator[Group]:
    """Yield the groups of rows: by the columns of the data, by what is computed, by class, by confidence."""
    taken = {column.name for column in known.columns}
    for column in known.columns:
        if column.asked or column.few or column.dates:
            yield from groups_of(column)
    for column in known.computed:
        yield from groups_of(column)
    members = kind.members(targets_N)
    for name, inside_N in members.items() if len(members) > 1 else ():
        yield Group(_free(CLASS, taken), name, inside_N)
    if not members and targets_N.ndim == 1 and targets_N.dtype.kind == "f":
        yield from _of_numbers(_free(TARGET, taken), targets_N)
    sure_N = kind.confidence(outputs_NC)
    if sure_N is not None:
        yield from _of_numbers(_free(CONFIDENCE, taken), sure_N)


def groups_of(column: Described) -> list[Group]:
    """Return the groups of rows by one column: its values, quartiles, months or years, and the rows that have none.

    Of many values that are no numbers, the most frequent are groups, the rest together is one. A column that all rows have
    alike has no groups.
    """
    missing_N = column.codes_N < 0
    if column.dates:
        found = _of_values(column.name, _periods(column), in_order=True)
    elif column.scale_V is not None and len(column.values) > FEW_VALUES:
        found = quantile_groups(column)
    else:
        names = [None if code < 0 else str(column.values[code]) for code in column.codes_N.tolist()]
        order = None if column.scale_V is None else [str(column.values[place]) for place in np.argsort(column.scale_V)]
        found = _of_values(column.name, names, order, asked=column.asked)
    if missing_N.any():
        found.append(Group(column.name, MISSING, missing_N))
    return found if len(found) > 1 else []


def quantile_groups(column: Described) -> list[Group]:
    """Return the rows cut at the quartiles of a column of numbers; equal numbers stay together.

    Where more than a quarter of the rows have the largest number (texts that were cut), these stand apart.
    """
    numbers_N = column.numbers()
    known = numbers_N[~np.isnan(numbers_N)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, _PARTS + 1)[1:-1], method="lower")) if len(known) else known
    below = known[known < known.max(initial=-np.inf)]
    edges = np.unique(np.minimum(edges, below.max())) if len(below) else edges[:0]
    places_N = np.searchsorted(edges, numbers_N, side="left")
    found = []
    for place in range(len(edges) + 1):
        inside_N = (places_N == place) & ~np.isnan(numbers_N)
        if inside_N.any():
            low, high = (column.shown(end) for end in (numbers_N[inside_N].min(), numbers_N[inside_N].max()))
            found.append(Group(column.name, low if low == high else f"{low} to {high}", inside_N))
    return found


def _of_numbers(name: str, numbers_N: FloatArray) -> list[Group]:
    values_V, codes_N = np.unique(numbers_N, return_inverse=True)
    column = Described(name=name, codes_N=codes_N, values=tuple(values_V.tolist()), scale_V=values_V.astype(np.float64))
    found = quantile_groups(column)
    return found if len(found) > 1 else []


def _of_values(
    column: str, names: Sequence[str | None], order: Sequence[str] | None = None, *, in_order: bool = False, asked: bool = False
) -> list[Group]:
    """Return one group a name, the most frequent first, or in a given or in their own order."""
    there = np.array([name or "" for name in names], dtype=object)
    known_N = np.array([name is not None for name in names])
    different, codes, counts = np.unique(there[known_N].astype(str), return_inverse=True, return_counts=True)
    codes_N = np.full(len(names), -1)
    codes_N[known_N] = codes
    by_count = sorted(range(len(different)), key=lambda place: (-counts[place], different[place]))
    most = len(different) if in_order or order is not None else FEW_VALUES
    most = most if asked or in_order else min(most, max(int((counts >= FEWEST_ROWS).sum()), 1))
    shown, rest = (by_count[:most], by_count[most:]) if len(by_count) - most > 1 else (by_count, [])
    if in_order:
        shown = sorted(shown, key=lambda place: str(different[place]))
    elif order is not None:
        rank = {name: place for place, name in enumerate(order)}
        shown = sorted(shown, key=lambda place: rank[str(different[place])])
    found = [Group(column, str(different[place]), codes_N == place) for place in shown]
    return [*found, Group(column, OTHERS, np.isin(codes_N, rest))] if rest else found


def _periods(column: Described) -> list[str | None]:
    """Return the month of each row, or the year where there are more than two years of months."""
    days = [None if np.isnan(day) else datetime.date.fromordinal(int(day)) for day in column.numbers().tolist()]
    months = [None if day is None else f"{day:%Y-%m}" for day in days]
    if len(set(months) - {None}) <= _MOST_MONTHS:
        return months
    return [None if day is None else f"{day.year:04d}" for day in days]


def computed_columns(lengths_N: Array, scripts: Sequence[str] | None, taken: Sequence[str]) -> tuple[Described, ...]:
    """Return what is known of rows without a column: their lengths, and of texts the script.

    Args:
        lengths_N: Positions of each row.
        scripts: Script of each row; None where rows are no texts.
        taken: Names of the columns of the data.
    """
    length = described(_free("length", taken), np.asarray(lengths_N).tolist())
    script = described(_free("script", taken), scripts) if scripts is not None else None
    return tuple(column for column in (length, script) if column is not None)


def _free(name: str, taken: Sequence[str] | set[str]) -> str:
    """Return a name that no column of the data has."""
    return f"({name})" if name in taken else name


def defined(value: float) -> float | None:
    """Return a number for JSON: None where it is undefined."""
    return value if math.isfinite(value) else None


def number(value: float | None) -> float:
    """Return the number that `defined` wrote."""
    return math.nan if value is None else float(value)


__all__ = ["Group", "SliceRow", "computed_columns", "groups_of", "slices_of"]
