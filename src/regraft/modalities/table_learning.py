"""What a table learns from its training rows: the scale of numbers and dates, the list of categories, what says nothing.

Shapes: N rows, Q knots.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from regraft.errors import DataError, Problem
from regraft.modalities.series_steps import solid
from regraft.modalities.table_columns import Learnt
from regraft.modalities.table_survey import TableSurvey
from regraft.modalities.table_values import READ, Cell, Kind, misfit
from regraft.types import Array, FloatArray

_HELD = 200_000
_ROWS_A_KNOT = 30
_FEWEST_KNOTS = 10
_KEPT_CATEGORIES = 10_000


@dataclass(frozen=True)
class Sizes:
    """How much is learnt.

    Args:
        min_count: Training rows that a category needs to be known by itself.
        knots: Most knots of a column.
    """

    min_count: int
    knots: int


class _Gathered:
    """Cells of one column over all training rows; of very many rows every second, fourth, ... is kept for the knots."""

    def __init__(self, name: str, kind: Kind) -> None:
        self.name, self.kind = name, kind
        self.rows = self.there = 0
        self.counts: Counter[str] = Counter()
        self._kept: list[Array] = []
        self._held, self._stride, self._passed = 0, 1, 0
        self.mean = self._squares = 0.0

    def add(self, cells: Sequence[Cell]) -> None:
        self.rows += len(cells)
        found = [cell for cell in cells if cell is not None]
        if self.kind == "category":
            self.there += len(found)
            self.counts.update(cast(list[str], found))
        elif found:
            self._numbers(np.array(found, dtype=np.float64))

    def _numbers(self, found_N: FloatArray) -> None:
        # Chan, Golub and LeVeque 1983, equations 1.5a and 1.5b.
        total, mean = self.there + len(found_N), float(found_N.mean())
        apart = mean - self.mean
        self._squares += float(((found_N - mean) ** 2).sum()) + apart**2 * self.there * len(found_N) / total
        self.mean += apart * len(found_N) / total
        self.there = total
        taken_N = found_N[-self._passed % self._stride :: self._stride]
        self._passed += len(found_N)
        self._kept.append(taken_N)
        self._held += len(taken_N)
        if self._held > _HELD:
            joined_N = np.concatenate(self._kept)[::2]
            self._kept, self._held, self._stride = [joined_N], len(joined_N), 2 * self._stride

    def useless(self) -> str:
        """Return why nothing can be learnt from the column, or an empty string."""
        if not self.there:
            return "it is missing in every training row"
        if self.there < self.rows:
            return ""  # where it is missing may say something
        same = len(self.counts) == 1 if self.kind == "category" else self._squares == 0.0
        return "it is the same in every training row" if same else ""

    def learnt(self, sizes: Sizes) -> Learnt:
        """Return what was found out."""
        gaps = self.there < self.rows
        if self.kind == "category":
            known = [(-count, value) for value, count in self.counts.items() if count >= sizes.min_count]
            values = tuple(value for _, value in sorted(known)[:_KEPT_CATEGORIES])
            return Learnt(self.name, self.kind, gaps, rows=self.there, values=values)
        spread = np.array([math.sqrt(self._squares / self.there)])
        deviation = float(solid(spread, np.array([self.mean]))[0])
        knots: tuple[float, ...] = ()
        if self.kind == "number":
            values_N = np.concatenate(self._kept)
            count = min(sizes.knots, max(_FEWEST_KNOTS, len(values_N) // _ROWS_A_KNOT))
            knots_Q = np.maximum.accumulate(np.quantile(values_N, np.linspace(0.0, 1.0, count)))
            knots = tuple(map(float, knots_Q))
        return Learnt(self.name, self.kind, gaps, self.mean, deviation, knots, self.there)


def learn(
    kinds: Mapping[str, Kind], raws: Callable[[], Iterable[Sequence[Any]]], sizes: Sizes
) -> tuple[list[Learnt], list[str]]:
    """Learn from training rows.

    Args:
        kinds: What the user says, or what looking at all rows has settled.
        raws: Gives the raw rows again from the start, in chunks.
        sizes: How much is learnt.

    Returns:
        The columns, numbers first and categories last, and sentences about columns that are dropped.

    Raises:
        DataError: There is no row, a row cannot be read, or no column says anything.
    """
    columns = [_Gathered(name, kind) for name, kind in _all_kinds(kinds, raws).items()]
    done = 0
    for chunk in raws():
        try:
            for column in columns:
                read = READ[column.kind]
                column.add([read(raw[column.name]) for raw in chunk])
        except (ValueError, KeyError, TypeError):
            raise DataError(_first_misfit(chunk, {column.name: column.kind for column in columns}, done)) from None
        done += len(chunk)
    dropped = {column.name: why for column in columns if (why := column.useless())}
    notes = [f"the column '{name}' is dropped: {why}" for name, why in dropped.items()]
    found = [column.learnt(sizes) for column in columns if column.name not in dropped]
    if not found:
        got, fix = "; ".join(f"'{name}': {why}" for name, why in dropped.items()), "read columns that differ from row to row"
        raise DataError(Problem(what="no column says anything", got=got, fix=fix))
    return sorted(found, key=lambda column: column.kind == "category"), notes


def _first_misfit(chunk: Sequence[Any], kinds: Mapping[str, Kind], done: int) -> Problem:
    found = ((number, misfit(raw, kinds)) for number, raw in enumerate(chunk, start=done + 1))
    number, why = next((number, why) for number, why in found if why)
    return Problem(what=why, where=f"training row {number}", fix="mend the row, or take it out")


def _all_kinds(kinds: Mapping[str, Kind], raws: Callable[[], Iterable[Sequence[Any]]]) -> Mapping[str, Kind]:
    """Return the kind of every column: as settled before, or found by looking at all rows."""
    first = next((chunk[0] for chunk in raws() if len(chunk)), None)
    if first is None:
        raise DataError(Problem(what="there is no row to learn from", fix="give training rows"))
    if not isinstance(first, Mapping):
        raise DataError(Problem(what=misfit(first, kinds), where="training row 1", fix="give rows as mappings"))
    if set(first) <= set(kinds):
        return {name: kind for name, kind in kinds.items() if name in first}
    survey = TableSurvey(kinds)
    for chunk in raws():
        survey.add({str(name): [raw.get(name) if isinstance(raw, Mapping) else None for raw in chunk] for name in first})
    return survey.settled(named=True)
