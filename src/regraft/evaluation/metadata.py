"""What is known of judged rows beside what is predicted and what is read: other columns, lengths, scripts, the rows' numbers.

Values are read a column at a time and held as small numbers, so that neither a long text nor a picture is ever held. A column
that is nothing to group by (long texts, names that never come twice) is given up while it is read.

Shapes: N rows, D width of features.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from regraft.data.targets import as_number, is_missing
from regraft.errors import Problem, did_you_mean
from regraft.evaluation.options import JudgeOptions
from regraft.types import Array, FloatArray

FEW_VALUES = 20
"""A column with up to so many different values is a slice a value; other numbers are cut at their quartiles."""
MOST_COLUMNS = 50
"""Columns that are looked at where none were asked for."""
_MOST_NAMES = 1000
_LONGEST_NAME = 200
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:$|[T ])")


@dataclass(frozen=True, kw_only=True)
class Described:
    """One column of the judged rows.

    Args:
        name: Its name.
        codes_N: Which of the `values` each row has; -1 where it has none.
        values: The different values.
        scale_V: The values as numbers, dates as days since the year 1; None where they are neither.
        dates: Whether they are dates.
        asked: Whether it was asked for by name.
    """

    name: str
    codes_N: Array
    values: tuple[Any, ...]
    scale_V: FloatArray | None = None
    dates: bool = False
    asked: bool = False

    @property
    def few(self) -> bool:
        """Whether rows can be grouped by its values: there are two at least, a missing one included, and not many."""
        different = len(self.values) + int((self.codes_N < 0).any())
        return different > 1 and len(self.values) <= FEW_VALUES

    def numbers(self) -> FloatArray:
        """Return the value of each row as a number (N,), NaN where it has none."""
        scale_V = np.full(len(self.values), np.nan) if self.scale_V is None else self.scale_V
        found_N: FloatArray = np.append(scale_V, np.nan)[self.codes_N]
        return found_N

    def shown(self, number: float) -> str:
        """Return a number on the scale of the values as people read it."""
        if self.dates:
            return datetime.date.fromordinal(max(1, int(number))).isoformat()
        return f"{int(number):,}".replace(",", "") if float(number).is_integer() else f"{number:.4g}"

    def take(self, rows: Array) -> Self:
        """Return the column of some rows."""
        return replace(self, codes_N=self.codes_N[rows])


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What is known of the judged rows.

    Args:
        columns: Columns of the data.
        computed: What needs no column: "length", "script".
        numbers_N: Number of each row in its source, counting from 1.
        features_ND: Features of the base, where they are there anyway.
    """

    columns: tuple[Described, ...] = ()
    computed: tuple[Described, ...] = ()
    numbers_N: Array = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    features_ND: FloatArray | None = None

    def take(self, rows: Array) -> Metadata:
        """Return what is known of some rows."""
        return Metadata(
            columns=tuple(column.take(rows) for column in self.columns),
            computed=tuple(column.take(rows) for column in self.computed),
            numbers_N=self.numbers_N[rows],
            features_ND=None if self.features_ND is None else self.features_ND[rows],
        )

    def column(self, name: str) -> Described | None:
        """Return a column of the data by its name, or nothing."""
        return next((column for column in self.columns if column.name == name), None)


class Describing:
    """Take in the values of one column, some rows at a time.

    Args:
        name: Of the column.
        asked: Whether it was asked for by name: then it is not given up.
    """

    def __init__(self, name: str, *, asked: bool = False) -> None:
        self.name, self.asked = name, asked
        self.given_up = False
        self._book: dict[Any, int] = {}
        self._names = 0
        self._codes: list[Array] = []

    def add(self, values: Sequence[Any]) -> None:
        """Take in the values of the next rows."""
        if self.given_up:
            return
        codes = np.empty(len(values), dtype=np.int64)
        book = self._book
        for place, value in enumerate(values):
            if is_missing(value):
                codes[place] = -1
                continue
            key = _plain(value)
            code = book.get(key)
            if code is None:
                code = book[key] = len(book)
                self._names += isinstance(key, str) and _scale(key) is None
                if not self.asked and (self._names > _MOST_NAMES or (isinstance(key, str) and len(key) > _LONGEST_NAME)):
                    self.given_up = True
                    return
            codes[place] = code
        self._codes.append(codes)

    def finish(self) -> Described | None:
        """Return the column; nothing where it was given up, is empty, or tells no rows apart."""
        if self.given_up:
            return None
        codes_N = np.concatenate(self._codes) if self._codes else np.empty(0, dtype=np.int64)
        values = tuple(self._book)
        if len(values) + int((codes_N < 0).any()) < 2 and not self.asked:
            return None
        scaled = [_scale(value) for value in values]
        dates = {is_date for _, is_date in filter(None, scaled)}
        whole = bool(values) and None not in scaled and len(dates) == 1
        scale_V = np.array([pair[0] for pair in scaled if pair]) if whole else None
        return Described(
            name=self.name, codes_N=codes_N, values=values, scale_V=scale_V, dates=whole and dates == {True}, asked=self.asked
        )


def described(name: str, values: Iterable[Any], *, asked: bool = False) -> Described | None:
    """Return a column of values that are at hand.

    Args:
        name: What it is called.
        values: One a row, None where there is none.
        asked: Whether it was asked for by name.

    Example:
        >>> column = described("paid", ["12", "7", None, "12"])
        >>> column.values, column.codes_N.tolist(), column.numbers().tolist()
        (('12', '7'), [0, 1, -1, 0], [12.0, 7.0, nan, 12.0])
    """
    describing = Describing(name, asked=asked)
    describing.add(list(values))
    return describing.finish()


def wanted_columns(options: JudgeOptions, there: Iterable[str], besides: Iterable[str] = ()) -> dict[str, bool]:
    """Return the columns to read, in the order of the data -> whether they were asked for by name.

    Args:
        options: Names those that are wanted; if it does not, the first `MOST_COLUMNS` are.
        there: Columns of single values that the data have.
        besides: Columns that are not looked at unless they are asked for: targets.
    """
    known = list(there)
    named = {*(options.slices or ()), *filter(None, [options.fairness])}
    free = [name for name in known if name not in {*besides, *named}][:MOST_COLUMNS] if options.slices is None else []
    return {name: name in named for name in known if name in {*free, *named}}


def column_problems(options: JudgeOptions, there: Iterable[str], where: str) -> list[Problem]:
    """Return the problems of columns that are asked for and not there.

    Args:
        options: What is asked for.
        there: Columns of single values that the data have.
        where: What messages call the data.
    """
    known = list(there)
    asked = dict.fromkeys(options.slices or (), "judge.slices")
    asked |= {options.fairness: "judge.fairness"} if options.fairness else {}
    return [
        Problem(
            what=f"there is no column '{name}' to group rows by",
            where=where,
            got=", ".join(map(repr, known[:20])) or "no columns",
            expected=f"a column of single values, as {option} names it",
            fix=did_you_mean(name, known),
        )
        for name, option in asked.items()
        if name not in known
    ]


def read_columns(wanted: Mapping[str, bool], chunks: Mapping[str, Iterator[Sequence[Any]]]) -> tuple[Described, ...]:
    """Return columns that are read one after the other; one that is given up is not read to its end.

    Args:
        wanted: Column -> whether it was asked for.
        chunks: Column -> its values, some rows at a time.
    """
    found = []
    for name, asked in wanted.items():
        describing = Describing(name, asked=asked)
        for values in chunks[name]:
            describing.add(values)
            if describing.given_up:
                break
        found.append(describing.finish())
    return tuple(column for column in found if column is not None)


def _plain(value: Any) -> Any:
    """Return a value as one that can be a key; what is equal in Python and no number (True, 1) is kept apart by its text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str | int | float | datetime.date) else str(value)


def _scale(value: Any) -> tuple[float, bool] | None:
    """Return a value as a number and whether it is a date, or nothing."""
    if isinstance(value, datetime.date):
        return float(value.toordinal()), True
    number = as_number(value)
    if number is not None:
        return (number, False) if np.isfinite(number) else None
    return _date(value.strip()) if isinstance(value, str) else None


def _date(text: str) -> tuple[float, bool] | None:
    """Return the day of a date as ISO 8601 writes it, with or without a time after it."""
    if _DAY.match(text) is None:
        return None
    try:
        return float(datetime.date.fromisoformat(text[:10]).toordinal()), True
    except ValueError:
        return None
