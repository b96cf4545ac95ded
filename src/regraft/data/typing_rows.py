"""Columns out of rows that are mappings (JSON lines, lists of dicts): which keys there are, and one type for each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from regraft.data.columns import arrow_column, blank_rows
from regraft.data.reader import row_place
from regraft.errors import DataError, Problem


class _Numbers:
    """Stands for lists of numbers among the types of values: a series of one channel."""


class _Steps:
    """Stands for lists of lists of numbers: a series of several channels."""


class _Empty:
    """Stands for lists with nothing in them, which go with lists of anything."""


_KINDS: dict[type, tuple[str, pa.DataType]] = {
    str: ("text", pa.string()),
    bool: ("true/false", pa.bool_()),
    int: ("whole number", pa.int64()),
    float: ("number with a fraction", pa.float64()),
    bytes: ("bytes", pa.binary()),
    list: ("list of texts", pa.list_(pa.string())),
    _Empty: ("empty list", pa.list_(pa.string())),
    _Numbers: ("list of numbers", pa.list_(pa.float64())),
    _Steps: ("list of lists of numbers", pa.list_(pa.list_(pa.float64()))),
}
_LISTS = frozenset({list, _Empty, _Numbers, _Steps})
_NUMBERS = frozenset({int, float, type(None)})
_NAMES = {kind: name for kind, (name, _) in _KINDS.items()}
_ARROW = {kind: arrow for kind, (_, arrow) in _KINDS.items()}


class ColumnTypes:
    """Learn names and types of columns by looking at every row once.

    Whole numbers and fractions in one column make it a column of fractions; any other mixture is an error.

    Args:
        source: Name of the file in messages.
        described: Kind of data in messages ("JSON").
    """

    def __init__(self, source: str, described: str) -> None:
        self._source = source
        self._described = described
        self._seen: dict[tuple[str, type], int] = {}
        self._order: dict[str, None] = {}

    def observe(self, row: Mapping[str, Any], number: int) -> Problem | None:
        """Take in one row; return what is wrong with it, if anything.

        Args:
            row: Column name -> value.
            number: Row number, counting from 1.
        """
        seen = self._seen
        for key, value in row.items():
            if (key, value.__class__) not in seen or value.__class__ is list:
                problem = self._unseen(key, value, number)
                if problem is not None:
                    for name in row:  # the row is bad, but its columns are there: nobody shall be told that one is missing
                        self._order.setdefault(name)
                    return problem
        return None

    def _unseen(self, key: str, value: Any, number: int) -> Problem | None:
        kind = kind_of(value)
        if value is not None and kind is None:
            return nested_value(row_place(self._source, number), key, value, self._described)
        self._order.setdefault(key)
        self._seen.setdefault((key, kind or type(None)), number)
        return None

    def schema(self) -> pa.Schema:
        """Return the columns in the order in which they were first seen.

        Raises:
            DataError: A column mixes types that do not go together; one problem a column.
        """
        fields, problems = [], []
        for key in self._order:
            rows = {kind: row for (name, kind), row in self._seen.items() if name == key and kind in _ARROW}
            if single := {kind: row for kind, row in rows.items() if kind not in _LISTS}:
                rows = single  # a list among single values is a fault of its row
                if rows.keys() == {int, float}:
                    rows = {float: rows[float]}
            elif len(rows) > 1:
                rows.pop(_Empty, None)
            if len(rows) > 1:
                problems.append(mixed_types(self._source, key, {_NAMES[kind]: row for kind, row in rows.items()}))
            else:
                fields.append(pa.field(key, _ARROW[next(iter(rows))] if rows else pa.string()))
        if problems:
            raise DataError(problems)
        return pa.schema(fields)


def is_texts(value: object) -> bool:
    """Return whether a value is a list of texts, which may be empty."""
    return isinstance(value, (list, tuple)) and all(part.__class__ is str for part in value)


def kind_of(value: object) -> type | None:
    """Return what stands for the type of a value, or None where a column cannot hold it.

    Example:
        >>> kind_of("a").__name__, kind_of(["a"]).__name__, kind_of({"a": 1}), kind_of([1, "a"])
        ('str', 'list', None, None)
    """
    if not isinstance(value, (list, tuple)):
        return type(value) if type(value) in _ARROW else None
    if not value:
        return _Empty
    if is_texts(value):
        return list
    if _are_numbers(value):
        return _Numbers
    steps = [part for part in value if part is not None]
    return _Steps if all(isinstance(part, (list, tuple)) and _are_numbers(part) for part in steps) else None


def _are_numbers(values: Sequence[object]) -> bool:
    return set(map(type, values)) <= _NUMBERS


def nested_value(where: str, key: str, value: Any, described: str) -> Problem:
    """Return the problem of a value that is itself a list or an object."""
    if isinstance(value, (list, tuple)):
        got, fix = f"a list: {value!r:.80}", f"join it to a text, or give each part its own key ('{key}_1', '{key}_2')"
        if any(isinstance(part, Mapping) for part in value):
            fix = f"write it as a text that holds JSON, which --dialogue reads where it holds messages; {fix}"
    elif isinstance(value, Mapping):
        inner = next(iter(value), "part")
        got, fix = f"an object: {value!r:.80}", f"lift its parts to keys of the row ('{key}_{inner}'), or leave it out"
    else:
        got, fix = f"{type(value).__name__}: {value!r:.80}", "make it a text, a number, true/false or null"
    return Problem(
        what=f"nested {described}: the value of '{key}' is not a single value",
        where=f"{where}, column '{key}'",
        got=got,
        expected="a text, a number, true/false, null, a list of texts or a list of numbers",
        fix=fix,
    )


def mixed_types(source: str, column: str, first_rows: Mapping[str, int]) -> Problem:
    """Return the problem of a column whose values have several types.

    Args:
        source: Name of the file.
        column: Name of the column.
        first_rows: What people call each type -> the first row that has it.
    """
    found = " and ".join(f"{kind} (first in row {row})" for kind, row in sorted(first_rows.items(), key=lambda item: item[1]))
    return Problem(
        what=f"the column '{column}' mixes types",
        where=f"{source}, column '{column}'",
        got=found,
        expected="one type in all rows",
        fix="write all its values in one type, for example all as text",
    )


def typed_rows(
    rows: Sequence[Mapping[str, Any]], schema: pa.Schema, first_row: int, source: str, described: str = "JSON"
) -> tuple[pa.RecordBatch, dict[int, Problem]]:
    """Return rows as columns, with nulls where a row holds what Arrow cannot.

    Args:
        rows: Column name -> value.
        schema: The columns.
        first_row: Number of the first of the rows.
        source: Name of the file in messages.
        described: Kind of data in messages.

    Returns:
        The rows, and index -> problem.
    """
    arrays, bad = [], {}
    for field in schema:
        values = [row.get(field.name) for row in rows]
        array, wrong = arrow_column(values, field.type)
        arrays.append(array)
        for i, expected in wrong.items():
            place = row_place(source, first_row + i)
            if isinstance(values[i], (list, tuple)):
                bad[i] = nested_value(place, field.name, values[i], described)
                continue
            bad[i] = Problem(
                what="the row holds a value that cannot be kept",
                where=row_place(source, first_row + i, field.name),
                got=repr(values[i])[:80],
                expected=expected,
                fix="correct the row",
            )
    if not arrays:
        return pa.RecordBatch.from_pylist([{}] * len(rows), schema=schema), bad
    return blank_rows(pa.RecordBatch.from_arrays(arrays, schema=schema), bad), bad


def learn_types(rows: Iterable[tuple[int, Mapping[str, Any]]], types: ColumnTypes) -> dict[int, Problem]:
    """Show every (number, row) to `types`; return row number -> problem."""
    found = ((number, types.observe(row, number)) for number, row in rows)
    return {number: problem for number, problem in found if problem is not None}
