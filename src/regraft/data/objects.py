"""Rows that are already in memory: data frames, `datasets`, Arrow tables, lists of dicts; to what comes next they are files."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from regraft.data.arrays import array_bytes
from regraft.data.columns import check_names, drop_long_rows, plain_rows, plain_schema
from regraft.data.options import DataOptions
from regraft.data.reader import Chunk
from regraft.data.typing_rows import ColumnTypes, learn_types, mixed_types, typed_rows
from regraft.errors import DataError, Problem

_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})


class Rows(Protocol):
    """What every reader and every object in memory offers."""

    notes: list[str]

    @property
    def name(self) -> str:
        """What messages call the rows."""

    @property
    def typed(self) -> bool:
        """Whether numbers are known from texts."""

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""

    @property
    def row_count(self) -> int | None:
        """Number of rows, where known."""

    def chunks(self, chunk_rows: int) -> Iterator[Chunk]:
        """Yield every row in order."""


class _InMemory(ABC):
    """Slices of something that has a length and a schema.

    Args:
        name: What messages call it.
        schema: Plain columns.
        row_count: Number of rows.
        options: For the longest row.
    """

    typed = True

    def __init__(self, name: str, schema: pa.Schema, row_count: int, options: DataOptions) -> None:
        self.name = name
        self.schema = plain_schema(schema)
        self.row_count = row_count
        self.notes = [f"{name}, {row_count:,} rows"]
        self._options = options
        if not row_count:
            raise DataError(Problem(what="there are no rows", where=name, got="0 rows", fix="give at least one row"))
        check_names(self.schema.names, name)

    def chunks(self, chunk_rows: int) -> Iterator[Chunk]:
        """Yield every row in order."""
        for start in range(0, self.row_count, chunk_rows):
            rows, bad = self._slice(start, min(start + chunk_rows, self.row_count))
            rows = plain_rows(rows, self.schema)
            rows, long = drop_long_rows(rows, start + 1, self.name, self._options.max_row_bytes)
            yield Chunk(rows=rows, first_row=start + 1, bad={**long, **bad}, source=self.name)

    @abstractmethod
    def _slice(self, start: int, end: int) -> tuple[pa.RecordBatch, dict[int, Problem]]:
        """Return the rows [start, end), and what is wrong with rows that cannot be read, by their place among them."""


class TableRows(_InMemory):
    """Rows of a `pyarrow.Table`."""

    def __init__(self, table: pa.Table, options: DataOptions) -> None:
        super().__init__("Arrow table", table.schema, table.num_rows, options)
        self._table = table

    def _slice(self, start: int, end: int) -> tuple[pa.RecordBatch, dict[int, Problem]]:
        return _one_batch(self._table.slice(start, end - start)), {}


class FrameRows(_InMemory):
    """Rows of a pandas DataFrame; row numbers count from 1 whatever the index is."""

    def __init__(self, frame: Any, options: DataOptions) -> None:
        names = [column for column in frame.columns if not isinstance(column, str)]
        if names:
            fix = "rename the columns: frame.columns = frame.columns.map(str)"
            raise DataError(
                Problem(what="column names must be texts", where="data frame", got=", ".join(map(repr, names[:5])), fix=fix)
            )
        check_names(list(frame.columns), "data frame")
        super().__init__("data frame", _frame_schema(frame), len(frame), options)
        self._frame = frame

    def _slice(self, start: int, end: int) -> tuple[pa.RecordBatch, dict[int, Problem]]:
        return pa.RecordBatch.from_pandas(self._frame.iloc[start:end], preserve_index=False), {}


class HubRows(_InMemory):
    """Rows of a `datasets.Dataset`; class labels stand as their names."""

    def __init__(self, dataset: Any, options: DataOptions) -> None:
        arrow = dataset.with_format("arrow")
        self._names = {
            name: list(feature.names)
            for name, feature in dataset.features.items()
            if isinstance(getattr(feature, "names", None), list)
        }
        schema = dataset.features.arrow_schema
        for name in self._names:
            schema = schema.set(schema.get_field_index(name), pa.field(name, pa.string()))
        super().__init__("datasets.Dataset", schema, len(dataset), options)
        self.notes += [f"'{name}' holds the names {', '.join(names[:10])}" for name, names in self._names.items()]
        self._dataset = arrow

    def _slice(self, start: int, end: int) -> tuple[pa.RecordBatch, dict[int, Problem]]:
        batch = _one_batch(self._dataset[start:end])
        for name, names in self._names.items():
            index = batch.schema.get_field_index(name)
            codes = batch.column(index)
            sound = pc.if_else(pc.greater_equal(codes, 0), codes, pa.scalar(None, codes.type))  # -1 is the hub's "no label"
            batch = batch.set_column(index, name, pa.array(names, pa.string()).take(sound))
        return batch, {}


class ListRows(_InMemory):
    """Rows of a list of dicts; a key that a row lacks is a null."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], options: DataOptions) -> None:
        wrong = next((i for i, row in enumerate(rows, start=1) if not isinstance(row, Mapping)), 0)
        if wrong:
            got = f"row {wrong} is of type {type(rows[wrong - 1]).__name__}"
            raise DataError(
                Problem(what="every row of a list must be a dict", where="list of dicts", got=got, fix="give dicts")
            )
        self._rows = rows
        types = ColumnTypes("list of dicts", "value")
        numbered = ((number, _python_row(row)) for number, row in enumerate(rows, start=1))
        self._bad = learn_types(numbered, types)
        super().__init__("list of dicts", types.schema(), len(rows), options)

    def _slice(self, start: int, end: int) -> tuple[pa.RecordBatch, dict[int, Problem]]:
        bad = {i: self._bad[i + start + 1] for i in range(end - start) if i + start + 1 in self._bad}
        rows = [{} if i in bad else _python_row(row) for i, row in enumerate(self._rows[start:end])]
        batch, more = typed_rows(rows, self.schema, start + 1, self.name, "value")
        return batch, {**more, **bad}


def rows_of_object(data: object, options: DataOptions) -> Rows | None:
    """Return rows of something in memory, or None if it is not a kind of data that is known.

    Args:
        data: A pandas DataFrame, a `datasets.Dataset`, a `pyarrow.Table` or `RecordBatch`, or a list of dicts.
        options: For the longest row.

    Raises:
        DataError: It is of a known kind, but cannot be used.
    """
    pandas, datasets = sys.modules.get("pandas"), sys.modules.get("datasets")
    if pandas is not None and isinstance(data, pandas.DataFrame):
        return FrameRows(data, options)
    if datasets is not None and isinstance(data, datasets.Dataset):
        return HubRows(data, options)
    if isinstance(data, pa.RecordBatch):
        return TableRows(pa.Table.from_batches([data]), options)
    if isinstance(data, pa.Table):
        return TableRows(data, options)
    if isinstance(data, (list, tuple)):
        return ListRows(data, options)
    return None


def _python_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): value if value.__class__ in _PLAIN else _python_value(value) for key, value in row.items()}


def _python_value(value: Any) -> Any:
    """Return a value as Arrow takes it: a number of numpy as Python's, a path as text, an array as the bytes of a .npy file."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return array_bytes(value) if hasattr(value, "__array_interface__") else value


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    arrays = [column.combine_chunks() for column in table.columns]
    flat = [array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array for array in arrays]
    return pa.RecordBatch.from_arrays(flat, schema=table.schema)


def _frame_schema(frame: Any) -> pa.Schema:
    problems, fields = [], []
    for name in frame.columns:
        try:
            fields.append(pa.field(name, pa.Array.from_pandas(frame[name]).type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            first: dict[str, int] = {}
            for number, value in enumerate(frame[name], start=1):
                if value is not None and value == value:
                    first.setdefault(type(value).__name__, number)
            problems.append(mixed_types("data frame", name, first))
    if problems:
        raise DataError(problems)
    return pa.schema(fields)
