"""Keep the rows that have an input and a target; count the others, and refuse when there are too many of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from regraft.data.file_kinds import KINDS
from regraft.data.options import DataOptions
from regraft.data.reader import Chunk
from regraft.data.rows import RowSource
from regraft.data.store import RowStore, StoreWriter
from regraft.data.targets import Cells, is_missing
from regraft.errors import DataError, Problem
from regraft.types import Ledger

UNREADABLE = "unreadable rows"
NO_TARGET = "rows without a target"
NO_INPUT = "rows without an input"

_STORE_ROWS = 1024
_LONGEST_NAME = 200


class _Losses:
    """Count lost rows of one source, with the first places and the first problems."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.problems: list[Problem] = []

    def add(self, reason: str, place: str, problem: Problem | None = None) -> None:
        self.ledger.add(reason, 1, place)
        if problem is not None and len(self.problems) < 3:
            self.problems.append(problem)

    @property
    def total(self) -> int:
        return sum(self.ledger.counts.values())


class Sight(Protocol):
    """How values of the input column are looked at: what a modality says of files that they name, and of what is in them."""

    @property
    def chunk_rows(self) -> int:
        """Raw values that are held at once."""

    def located(self, raw: Any, folder: Path | None) -> Any:
        """Return a value with a path in it made absolute; raises ValueError."""

    def opened(self, raw: Any) -> Any:
        """Return a located value with its file read; raises ValueError."""

    def unreadable(self, raw: Any) -> str:
        """Return why a value can never be read, or an empty string; of several columns, it says in which."""


def store_rows(
    source: RowSource,
    columns: tuple[str, str],
    place: tuple[Path, str],
    options: DataOptions,
    ledger: Ledger,
    sight: Sight | None = None,
    parts: Sequence[str] = (),
) -> RowStore:
    """Stream the usable rows of a source into a store.

    Args:
        source: The rows.
        columns: Input column and target column.
        place: Private folder, and name of the store in it.
        options: For the budget of lost rows.
        ledger: Receives what was lost.
        sight: Looks at every value of the input column; values are taken as they are if not given.
        parts: Columns that the target column is made of, where there are several targets.

    Raises:
        DataError: More rows are lost than `options.lost_share` allows, none is left, or the target is an object or a list of
            anything but texts.
    """
    problems = _nested_targets(source, columns[1], parts)
    if problems:
        raise DataError(problems)
    losses, total = _Losses(), 0
    writer = StoreWriter(*place, source.schema, columns)
    with writer:
        for chunk in source.chunks(sight.chunk_rows if sight else _STORE_ROWS):
            total += chunk.rows.num_rows
            _keep(chunk, columns, writer, losses, sight)
    _check_budget(source.name, losses, total, options, columns)
    ledger.include(losses.ledger)
    store = writer.finish()
    _count_lacking(store, parts, ledger)
    return store


def _nested_targets(source: RowSource, target: str, parts: Sequence[str]) -> list[Problem]:
    kind = source.schema.field(target).type
    found = {name: kind.field(name).type for name in parts} or {target: kind}
    fix = "make a column that holds one value a row, or a list of texts"
    return [
        Problem(what="the target is not a single value", where=f"{source.name}, column '{name}'", got=str(one), fix=fix)
        for name, one in found.items()
        if pa.types.is_nested(one) and not _holds_texts(one)
    ]


def _count_lacking(store: RowStore, parts: Sequence[str], ledger: Ledger) -> None:
    """Count the rows that lack some of several targets: they are kept, and say nothing about those."""
    for name in parts:
        lacking_C = np.array([value[name] is None for value in store.targets])
        rows = np.flatnonzero(lacking_C[store.codes_N])
        if len(rows):
            ledger.add(lacking_reason(name), len(rows))
            for row in rows[:3]:
                ledger.add(lacking_reason(name), 0, store.place(int(row)))


def lacking_reason(name: str) -> str:
    """Return the ledger's reason for rows that have another target but not this one."""
    return f"rows without the target '{name}' (others of the row are used)"


def _holds_texts(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(lists and (pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)))


def _keep(chunk: Chunk, columns: tuple[str, str], writer: StoreWriter, losses: _Losses, sight: Sight | None = None) -> None:
    names = chunk.rows.schema.names
    inputs: list[Any] = chunk.rows.column(names.index(columns[0])).to_pylist()
    given: list[Any] = chunk.rows.column(names.index(columns[1])).to_pylist()
    targets = [Cells.of(value) if value.__class__ is dict else value for value in given]
    given_inputs = inputs
    if sight is not None:
        chunk, inputs = _looked_at(chunk, columns[0], inputs, sight)
    kept = []
    for i, (value, target) in enumerate(zip(inputs, targets, strict=True)):
        if i in chunk.bad:
            losses.add(
                UNREADABLE, f"{chunk.place(i)}{_named(given_inputs[i], chunk.folder)}: {chunk.bad[i].what}", chunk.bad[i]
            )
        elif is_missing(target):
            losses.add(NO_TARGET, chunk.place(i))
        elif is_missing(value):
            losses.add(NO_INPUT, chunk.place(i))
        else:
            kept.append(i)
    if not kept:
        return
    rows = chunk.rows
    if len(kept) < rows.num_rows:
        rows = rows.take(pa.array(kept, pa.int64()))
        inputs, targets = [inputs[i] for i in kept], [targets[i] for i in kept]
    writer.write(rows, [chunk.first_row + i for i in kept], chunk.source, (inputs, targets))


def _named(value: Any, folder: Path | None) -> str:
    """Return how the file that a cell names is told, below the folder of the data where it lies there; else nothing."""
    name = value.get("path") if isinstance(value, dict) else value
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:
        return ""
    path = Path(name)
    if not any(path.suffix.lower() in suffixes for suffixes in KINDS.values()):
        return ""  # a text may hold a full stop, and is nobody's business in a report
    return f", {path.relative_to(folder) if folder is not None and path.is_relative_to(folder) else path}"


def _looked_at(chunk: Chunk, column: str, values: list[Any], sight: Sight) -> tuple[Chunk, list[Any]]:
    """Return a chunk with absolute paths in its input column and a problem for each value that cannot be read, and the values
    with their files read.
    """
    located, opened, bad = list(values), list(values), dict(chunk.bad)
    for i, value in enumerate(values):
        if i in bad or is_missing(value):
            continue
        try:
            located[i] = sight.located(value, chunk.folder)
            opened[i] = sight.opened(located[i])
            reason = sight.unreadable(opened[i])
        except ValueError as error:
            reason = str(error)
        if reason:
            place = chunk.place(i) if isinstance(value, dict) else f"{chunk.place(i)}, column '{column}'"
            bad[i] = Problem(what=reason, where=place, fix="mend it or take the row out")
    rows = chunk.rows
    if located != values:
        index = rows.schema.get_field_index(column)
        rows = rows.set_column(index, rows.schema.field(index), pa.array(located, rows.schema.field(index).type))
    return replace(chunk, rows=rows, bad=bad), opened


def _check_budget(name: str, losses: _Losses, total: int, options: DataOptions, columns: tuple[str, str]) -> None:
    lost = losses.total
    kept = total - lost
    if kept and lost <= options.lost_share * total:
        return
    counts = ", ".join(f"{count:,} {why}" for why, count in losses.ledger.counts.items())
    # What is unreadable stands below, each with its place.
    told = {why: where for why, where in losses.ledger.examples.items() if why != UNREADABLE or not losses.problems}
    places = "; ".join(f"{why}: {', '.join(where)}" for why, where in told.items())
    if not total:
        raise DataError(Problem(what="there are no rows", where=name, got="0 rows", fix="give at least one row"))
    head = Problem(
        what="more rows would be lost than allowed" if kept else "no row is left after cleaning",
        where=f"{name} ({places})" if places else name,
        got=f"{lost:,} of {total:,} rows ({lost / total:.1%}): {counts}",
        expected=f"at most {options.lost_share:.1%} lost",
        fix=_advice(losses, columns)
        + (f", or raise data.lost_share to {math.ceil(100 * lost / total) / 100:g}" if kept else ""),
    )
    raise DataError([head, *losses.problems])


def _advice(losses: _Losses, columns: tuple[str, str]) -> str:
    advice = {
        UNREADABLE: "correct the rows that cannot be read",
        NO_TARGET: f"fill in the column '{columns[1]}'",
        NO_INPUT: f"fill in the column '{columns[0]}'",
    }
    return " and ".join(advice[why] for why in losses.ledger.counts)
