"""What every table needs whatever its format: sound column names, plain types, rows that are not too long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from regraft.data.reader import row_place
from regraft.errors import DataError, Problem


def check_names(names: Sequence[str], where: str, fix: str = "give every column its own name") -> None:
    """Refuse column names that are empty or stand twice.

    Raises:
        DataError: One problem for each.
    """
    problems = [
        Problem(what=f"column {i} has no name", where=where, got=", ".join(map(repr, names[:20])), fix=fix)
        for i, name in enumerate(names, start=1)
        if not name.strip()
    ]
    first: dict[str, int] = {}
    for i, name in enumerate(names, start=1):
        if name.strip() and name in first:
            what = f"the column name '{name}' stands twice"
            problems.append(Problem(what=what, where=where, got=f"columns {first[name]} and {i}", fix=fix))
        first.setdefault(name, i)
    if problems:
        raise DataError(problems)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema without what only matters on disk: dictionaries decoded, 64-bit offsets and views as plain strings."""
    return pa.schema([pa.field(field.name, _plain(field.type)) for field in schema])


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    return kind


def plain_rows(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return rows in a schema, columns taken by name; a column that is not there is null."""
    if rows.schema.equals(schema):
        return rows
    arrays = []
    for field in schema:
        index = rows.schema.get_field_index(field.name)
        if index < 0:
            arrays.append(pa.nulls(rows.num_rows, field.type))
            continue
        column = rows.column(index)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        arrays.append(column if column.type.equals(field.type) else column.cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def gathered_rows(rows: pa.RecordBatch, into: str, columns: Sequence[str]) -> pa.RecordBatch:
    """Return rows in which some columns stand as one, a struct, after those that are left."""
    parts = [rows.schema.field(name) for name in columns]
    struct = pa.StructArray.from_arrays([rows.column(name) for name in columns], fields=parts)
    rest = [field for field in rows.schema if field.name not in set(columns)]
    arrays = [*(rows.column(field.name) for field in rest), struct]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([*rest, pa.field(into, struct.type)]))


def drop_long_rows(
    rows: pa.RecordBatch, first_row: int, source: str, limit_bytes: int
) -> tuple[pa.RecordBatch, dict[int, Problem]]:
    """Put nulls in the place of rows whose strings are longer than the limit.

    Returns:
        The rows, and index -> problem for each of them.
    """
    sizes = None
    for column in rows.columns:
        if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
            lengths = pc.fill_null(pc.binary_length(column), 0).cast(pa.int64())
            sizes = lengths if sizes is None else pc.add(sizes, lengths)
    if sizes is None or not rows.num_rows or pc.max(sizes).as_py() <= limit_bytes:
        return rows, {}
    bad = {
        i: long_row(row_place(source, first_row + i), size, limit_bytes)
        for i, size in enumerate(sizes.to_pylist())
        if size > limit_bytes
    }
    return blank_rows(rows, bad), bad


def long_row(where: str, size_bytes: int, limit_bytes: int) -> Problem:
    """Return the problem of a row that is too long."""
    return Problem(
        what="the row is too long",
        where=where,
        got=f"{size_bytes:,} bytes",
        expected=f"at most {limit_bytes:,} bytes",
        fix=f"shorten it, or raise data.max_row_bytes (--set data.max_row_bytes={size_bytes + 1})",
    )


def blank_rows(rows: pa.RecordBatch, indices: Any) -> pa.RecordBatch:
    """Return the rows with nulls in the given places."""
    wanted = set(indices)
    if not wanted:
        return rows
    mask = pa.array([i in wanted for i in range(rows.num_rows)])
    arrays = [pc.if_else(mask, pa.scalar(None, column.type), column) for column in rows.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=rows.schema)


def arrow_column(values: Sequence[Any], kind: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    """Return values as one Arrow array, with nulls where Arrow cannot hold one.

    Returns:
        The array, and index -> what would have been right there.
    """
    try:
        return pa.array(values, kind), {}
    except (UnicodeEncodeError, OverflowError, pa.ArrowInvalid, pa.ArrowTypeError):
        kept, wrong = list(values), {}
        for i, value in enumerate(values):
            try:
                pa.array([value], kind)
            except UnicodeEncodeError:
                kept[i], wrong[i] = None, "valid Unicode text"
            except (OverflowError, pa.ArrowInvalid, pa.ArrowTypeError):
                kept[i], wrong[i] = None, "a number that fits 64 bits without loss"
        return pa.array(kept, kind), wrong
