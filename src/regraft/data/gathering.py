"""Several columns of a row as one raw value: what tables are made of. Whatever comes after sees one input column."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from regraft.data.clean import Sight
from regraft.data.rows import RowSource
from regraft.errors import DataError, Problem, did_you_mean
from regraft.options import JSON

_SURVEY_ROWS = 4096


@dataclass(frozen=True)
class Surveyed:
    """What was found out by looking at every row.

    Args:
        columns: The columns that are read together.
        notes: Sentences for people: which columns, which were left out and why.
        sight: Looks at every raw value.
        settled: Options of the modality that are now known (the kind of each column).
    """

    columns: tuple[str, ...]
    notes: tuple[str, ...]
    sight: Sight
    settled: Mapping[str, JSON] = field(default_factory=dict)


class Survey(Protocol):
    """Finds out what columns hold before any row is taken or refused."""

    def add(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Look at the values of some rows."""

    def finish(self, named: bool) -> Surveyed:
        """Return what was found.

        Args:
            named: Whether the user named the columns: then none is left out.

        Raises:
            DataError: Columns cannot be read; one problem for each.
        """


@dataclass(frozen=True)
class Gather:
    """Read columns together.

    Args:
        columns: Names with commas between them, as the user gave them; all but the target if empty.
        survey: Looks at them.
        flags: Column -> the flag that names it, where that is not the one of the modality that reads all of them.
    """

    columns: str
    survey: Survey
    flags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Gathered:
    """Columns that are read together.

    Args:
        name: What they are called as one.
        surveyed: What was found out about them.
    """

    name: str
    surveyed: Surveyed


def gather(tables: Mapping[str, RowSource], target: str, modality: str, wanted: Gather) -> Gathered:
    """Find the columns to read together, and look at what they hold.

    Args:
        tables: Split -> rows; those of "train" are looked at.
        target: Column to predict, never read.
        modality: Registered name of what reads them.
        wanted: What the user named.

    Raises:
        DataError: A column is not there, is the target, or cannot be read; one problem for each.
    """
    source = tables["train"]
    named = named_columns(wanted.columns, source.columns)
    flags: dict[str, str] = {**dict.fromkeys(named, f"--{modality}"), **wanted.flags}
    problems: list[Problem] = []
    for table in tables.values():
        for name, flag in flags.items():
            problems += missing_columns([name], table.columns, table.name, f"a column that {flag} names")
    if target in flags:
        fix = f"leave it out of {flags[target]}"
        problems.append(Problem(what=f"the target '{target}' cannot be read as well", where=source.name, fix=fix))
    if problems:
        raise DataError(problems)
    looked_at = named or [name for name in source.columns if name != target]
    if not looked_at:
        raise DataError(
            Problem(what=f"there is no column beside '{target}'", where=source.name, fix="add columns to learn from")
        )
    for columns in _columns(source, looked_at):
        wanted.survey.add(columns)
    surveyed = wanted.survey.finish(bool(named))
    for table in tables.values():
        problems += missing_columns(surveyed.columns, table.columns, table.name, f"a column of {source.name}")
    if problems:
        raise DataError(problems)
    name = modality
    while name in {*source.columns} - {*surveyed.columns}:
        name = f"{name}_"
    return Gathered(name, surveyed)


def named_columns(text: str, there: Sequence[str]) -> list[str]:
    """Return the columns that a text names.

    Args:
        text: Names with commas between them; a name with a comma in it stands in double quotes, or alone.
        there: Columns of the data.

    Example:
        >>> named_columns('age, "city, state"', []), named_columns("a,b", ["a,b"]), named_columns("", [])
        (['age', 'city, state'], ['a,b'], [])
    """
    if text in there:
        return [text]
    (names,) = csv.reader([text], skipinitialspace=True) if text.strip() else ([],)
    return list(dict.fromkeys(name.strip() for name in names if name.strip()))


def missing_columns(names: Sequence[str], there: Sequence[str], where: str, expected: str) -> list[Problem]:
    """Return one problem for each column that is not there, with the nearest names.

    Args:
        names: Columns that must be there.
        there: Those that are.
        where: What messages call the data.
        expected: What the column is.
    """
    got = ", ".join(map(repr, there[:20])) or "no columns"
    return [
        Problem(what=f"there is no column '{name}'", where=where, got=got, expected=expected, fix=did_you_mean(name, there))
        for name in names
        if name not in there
    ]


def together(rows: pa.RecordBatch, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return each row as a mapping from column to value.

    Example:
        >>> together(pa.RecordBatch.from_pylist([{"a": 1, "b": "x", "c": None}]), ["a", "b"])
        [{'a': 1, 'b': 'x'}]
    """
    values = [rows.column(name).to_pylist() for name in columns]
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]


def _columns(source: RowSource, names: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    for chunk in source.chunks(_SURVEY_ROWS):
        rows = chunk.rows
        if chunk.bad:
            rows = rows.take(pa.array([i for i in range(rows.num_rows) if i not in chunk.bad], pa.int64()))
        yield {name: rows.column(name).to_pylist() for name in names}
