"""Which column is predicted and which is read: as the user said, or by looking at the values, and saying what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from regraft.data.rows import RowSource
from regraft.data.targets import is_missing
from regraft.errors import DataError, Problem, did_you_mean

Recogniser = Callable[[Sequence[Any]], bool]
"""Takes some values of a column, none missing; returns whether they look like one kind of input."""

SAMPLE_ROWS = 1000
_SHOWN = 3


@dataclass(frozen=True)
class InputColumn:
    """The column that is read.

    Args:
        name: Name of the column.
        modality: Registered name of the modality that reads it.
        note: The sentence that says why it was chosen.
    """

    name: str
    modality: str
    note: str


def sample_rows(source: RowSource, rows: int = SAMPLE_ROWS) -> pa.RecordBatch:
    """Return the first chunk of a source, or an empty one."""
    first = next(source.chunks(rows), None)
    return first.rows if first is not None else pa.RecordBatch.from_pylist([], schema=source.schema)


def require_column(source: RowSource, name: str, flag: str) -> list[Problem]:
    """Return the problem of a column that is not there, with the nearest name.

    Args:
        source: The table.
        name: The column.
        flag: The option that names it ("--target").
    """
    if name in source.columns:
        return []
    fix = did_you_mean(name, source.columns)
    if any("no header (" in note for note in source.notes):
        fix += "; if the first line names the columns, --set data.header=true"
    return [
        Problem(
            what=f"there is no column '{name}'",
            where=source.name,
            got=f"the columns {', '.join(map(repr, source.columns[:20]))}",
            expected=f"the column that {flag} names",
            fix=fix,
        )
    ]


def find_input(source: RowSource, target: str, inputs: Mapping[str, str | Recogniser]) -> InputColumn:
    """Return the column to read.

    Args:
        source: The training rows.
        target: Column to predict, never the input.
        inputs: Modality -> the column that the user named, or a function that recognises its values.

    Raises:
        DataError: The named column is not there or is the target, several are named, or no column or several look right.
    """
    named = {modality: column for modality, column in inputs.items() if isinstance(column, str)}
    if len(named) > 1:
        got = ", ".join(f"--{modality} {column}" for modality, column in named.items())
        raise DataError(Problem(what="several input columns are named", where=source.name, got=got, fix="name one"))
    for modality, column in named.items():
        problems = require_column(source, column, f"--{modality}")
        if not problems and column == target:
            problems = [_both(source, column, modality)]
        if problems:
            raise DataError(problems)
        return InputColumn(column, modality, f"'{column}' is the {modality} column, as given")
    return _recognise(source, target, {name: f for name, f in inputs.items() if not isinstance(f, str)})


def _readable_sample(source: RowSource) -> pa.RecordBatch:
    """Return the first rows; without one that can be read, say that instead of something about empty columns."""
    first = next(source.chunks(SAMPLE_ROWS), None)
    if first is None or not first.rows.num_rows:
        raise DataError(Problem(what="there are no rows", where=source.name, got="0 rows", fix="give at least one row"))
    if len(first.bad) == first.rows.num_rows:
        whole = "the file" if first.rows.num_rows < SAMPLE_ROWS else f"the first {SAMPLE_ROWS:,}"
        fix = "correct the rows; the first of them follow" if len(first.bad) > 1 else "correct the row, see below"
        head = Problem(what=f"not one row of {whole} can be read", where=source.name, got=f"{len(first.bad):,} rows", fix=fix)
        raise DataError([head, *(first.bad[i] for i in sorted(first.bad)[:_SHOWN])])
    return first.rows


def _recognise(source: RowSource, target: str, recognisers: Mapping[str, Recogniser]) -> InputColumn:
    sample = _readable_sample(source)
    values: dict[str, list[Any]] = {}
    for name in source.columns:
        if name != target:
            values[name] = [value for value in sample.column(name).to_pylist() if not is_missing(value)]
    hits = [(name, kind) for name, found in values.items() if found for kind, knows in recognisers.items() if knows(found)]
    if len(hits) == 1:
        name, kind = hits[0]
        return InputColumn(name, kind, f"'{name}' is the {kind} column: {_looks(values[name])}, the only such column")
    if not hits and len(values) == len(recognisers) == 1:
        # One other column, and one kind to read it as: nothing else can be meant, however short its values are.
        ((name, found),), (kind,) = values.items(), recognisers
        if found and all(isinstance(value, str) for value in found):
            return InputColumn(name, kind, f"'{name}' is the {kind} column: {_looks(found)}, the only other column")
    kinds = " or ".join(recognisers) or "input"
    flags = " or ".join(f"--{kind} COLUMN" for kind in dict.fromkeys([kind for _, kind in hits] or recognisers))
    shown = [name for name, _ in hits] or list(values)
    what = f"several columns could be the {kinds} column" if hits else f"no column looks like {_article(kinds)} {kinds} column"
    got = "\n       ".join(
        f"'{name}' ({_looks(values[name])}), such as {_example(values[name])}" for name in dict.fromkeys(shown)
    )
    raise DataError(
        Problem(
            what=what, where=source.name, got=got or f"no column beside '{target}'", fix=f"name it with {flags or 'an option'}"
        )
    )


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _looks(values: Sequence[Any]) -> str:
    if not values:
        return "empty"
    if all(isinstance(value, str) for value in values):
        mean = sum(map(len, values)) / len(values)
        return f"strings, {mean:.0f} characters on average"
    return f"{type(values[0]).__name__} values"


def _example(values: Sequence[Any]) -> str:
    if not values:
        return "nothing"
    return repr(values[0]) if len(repr(values[0])) <= 60 else repr(str(values[0])[:57] + "...")


def _both(source: RowSource, column: str, modality: str) -> Problem:
    return Problem(
        what=f"the column '{column}' cannot be both target and input",
        where=source.name,
        got=f"--target {column} --{modality} {column}",
        fix="name another column for one of them",
    )
