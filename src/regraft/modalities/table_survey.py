"""Which columns of a table are read, and as what: found out by looking at every row before one of them is refused.

Only names and kinds are decided here. What depends on values (scales, the list of categories, columns that never change) is
learnt later, on training rows alone.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regraft.data.gathering import Surveyed
from regraft.errors import DataError, Problem, did_you_mean
from regraft.modalities import table_values as cells
from regraft.modalities.table_values import READ, Kind, listed, misfit

_MOST = 0.9
"""Share of a column's values from which on it is of a kind, and the rest are mistakes."""
_SOME = 0.01
_FEW_ROWS = 20
_HELD = 100_000
_IDS = frozenset({"id", "ids", "uid", "uuid", "guid", "index", "idx", "rowid", "row", "key", "unnamed: 0", "rownum", "no"})
_HALF = 0.5


class Column:
    """What is known of one column."""

    def __init__(self) -> None:
        self.rows = self.blank = self.texts = self.numbers = self.booleans = self.dates = 0
        self.foreign = self.codes = self.number_texts = self.date_texts = 0
        self.nested = self.example = ""
        self.whole = True
        self.different: set[Any] | None = set()

    def add(self, values: Sequence[Any]) -> None:
        """Look at some values."""
        self.rows += len(values)
        for value in values:
            if cells.is_blank(value):
                self.blank += 1
            elif isinstance(value, str):
                self._text(value)
            elif isinstance(value, (bool, np.bool_)):
                self.booleans += 1
            elif isinstance(value, datetime.date):
                self.dates += 1
            elif cells.is_scalar(value):
                self.numbers += 1
                self.whole = self.whole and float(value).is_integer()
            else:
                self.nested = self.nested or type(value).__name__
                continue
            self._note(value)

    def _text(self, value: str) -> None:
        self.texts += 1
        if cells.is_number(value):
            self.number_texts += 1
            self.codes += cells.is_code(value)
            self.whole = self.whole and "." not in value
        elif value.strip().lower() in cells.MISSING:
            self.blank += 1
            self.texts -= 1
        elif cells.is_date(value):
            self.date_texts += 1
        else:
            self.foreign += cells.is_foreign(value)
            self.example = self.example or value

    def _note(self, value: Any) -> None:
        if self.different is not None:
            self.different.add(value)
            if len(self.different) > _HELD:
                self.different = None  # so many different values that there is no end to them

    @property
    def there(self) -> int:
        """Values that are not missing."""
        return self.rows - self.blank

    @property
    def kind(self) -> Kind:
        """What the column holds; a category where nothing else is clear."""
        needed = _MOST * self.there
        if self.numbers + self.number_texts + self.foreign >= max(needed, 1) and self.codes <= _SOME * self.there:
            return "number"
        if self.booleans >= max(needed, 1) or (self.texts and cells.yes_or_no(self._texts())):
            return "boolean"
        return "date" if self.dates + self.date_texts >= max(needed, 1) else "category"

    @property
    def is_foreign(self) -> bool:
        """Whether most of its values are numbers as people write them, which would all be refused."""
        return self.kind == "number" and self.foreign > _HALF * self.there

    def _texts(self) -> list[str]:
        found = self.different or set()
        return [value for value in found if isinstance(value, str) and value.strip().lower() not in cells.MISSING]

    def useless(self, name: str) -> str:
        """Return why a column that nobody named is left out, or an empty string."""
        if self.nested:
            return f"holds values of type {self.nested}"
        if self.there < _FEW_ROWS:
            return ""
        different = self.there if self.different is None else len(self.different)
        kind = self.kind
        if kind == "number" and self.whole and different == self.there and self._counts(name):
            return "numbers the rows"
        if kind == "category" and different == self.there:
            return "is different in every row"
        if kind == "category" and different > _HALF * self.there:
            return f"holds {different:,} different texts in {self.there:,} rows"
        return ""

    def _counts(self, name: str) -> bool:
        words = name.lower().replace("-", "_")
        if words in _IDS or words.endswith("_id") or name.endswith(("Id", "ID")):
            return True
        if self.different is None:
            return False
        found = [float(value) for value in self.different]
        return max(found) - min(found) == len(found) - 1


@dataclass(frozen=True)
class TableSight:
    """Look at the rows of a table: is every value of the kind of its column?

    Args:
        kinds: Column -> kind.
    """

    kinds: Mapping[str, Kind]
    chunk_rows: int = 1024

    def located(self, raw: Any, folder: Path | None) -> Any:
        """Return a row as it is: no cell names a file."""
        return raw

    def opened(self, raw: Any) -> Any:
        """Return a row as it is."""
        return raw

    def unreadable(self, raw: Any) -> str:
        """Return which columns of a row hold something wrong, or an empty string."""
        return misfit(raw, self.kinds)


class TableSurvey:
    """Look at every row of a table.

    Args:
        kinds: What the user says of columns.
    """

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._said = kinds
        self._columns: dict[str, Column] = {}

    def add(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Look at the values of some rows."""
        for name, values in columns.items():
            self._columns.setdefault(name, Column()).add(values)

    def settled(self, named: bool) -> dict[str, Kind]:
        """Return the kind of each column that is read, as `finish` does."""
        found: dict[str, Kind] = self.finish(named).settled["kinds"]
        return found

    def finish(self, named: bool) -> Surveyed:
        """Return which columns are read, and as what.

        Args:
            named: Whether the user named them: then none is left out.

        Raises:
            DataError: A column holds lists, a kind is said of a column that is not there, or no column is left.
        """
        out = {} if named else {name: why for name, column in self._columns.items() if (why := self._left_out(name, column))}
        kept = {name: column for name, column in self._columns.items() if name not in out}
        problems = [_nested(name, column) for name, column in kept.items() if column.nested]
        problems += [_foreign(name, column) for name, column in kept.items() if column.is_foreign and name not in self._said]
        problems += [_unknown(name, list(self._columns)) for name in self._said if name not in self._columns]
        if not kept:
            said = ", ".join(f"'{name}' {why}" for name, why in out.items())
            problems.append(Problem(what="no column is left to read", got=said, fix="name the columns with --table"))
        if problems:
            raise DataError(problems)
        kinds: dict[str, Kind] = {name: self._said.get(name, column.kind) for name, column in kept.items()}
        return Surveyed(tuple(kinds), _notes(kinds, kept, out, named, self._said), TableSight(kinds), {"kinds": kinds})

    def _left_out(self, name: str, column: Column) -> str:
        return "" if name in self._said and not column.nested else column.useless(name)


def _notes(
    kinds: Mapping[str, Kind], columns: Mapping[str, Column], out: Mapping[str, str], named: bool, said: Mapping[str, Kind]
) -> tuple[str, ...]:
    by_kind = {kind: [name for name in kinds if kinds[name] == kind] for kind in READ}
    parts = [f"{_KINDS[kind]}: {listed(names)}" for kind, names in by_kind.items() if names]
    notes = [f"{len(kinds)} columns are read together{', as given' if named else ''}; {'; '.join(parts)}"]
    if out:
        notes.append("left out: " + "; ".join(f"'{name}' {why}" for name, why in out.items()) + " (--table names columns)")
    for name, column in columns.items():
        if column.codes and kinds[name] == "category" and name not in said:
            notes.append(f"'{name}' has values that begin with a zero: read as a category")
    return tuple(notes)


_KINDS: Mapping[str, str] = {"number": "numbers", "category": "categories", "boolean": "true or false", "date": "dates"}


def _nested(name: str, column: Column) -> Problem:
    fix = "leave the column out, or write its parts to columns of their own"
    expected = "texts, numbers, true or false, dates"
    return Problem(
        what=f"the column '{name}' cannot stand in a table", got=f"values of type {column.nested}", expected=expected, fix=fix
    )


def _foreign(name: str, column: Column) -> Problem:
    fix = "write them so, or read them as names: --set modality.kinds." + f"{name}=category"
    return Problem(
        what=f"the numbers of the column '{name}' are not written as programs write them",
        got=f"{column.foreign:,} such as {column.example!r}",
        expected="numbers such as 1234.5: a point before the fraction, no other signs",
        fix=fix,
    )


def _unknown(name: str, columns: Sequence[str]) -> Problem:
    where = f"modality.kinds.{name}"
    return Problem(what=f"there is no column '{name}' to read", where=where, fix=did_you_mean(name, columns))
