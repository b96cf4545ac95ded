"""One split of a dataset: rows that are read from disk where they are looked at."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa

from regraft.data.fingerprint import sum_digests, value_digest
from regraft.data.store import RowStore, joined_digest
from regraft.data.targets import Kind, as_kind
from regraft.errors import DataError, Problem, did_you_mean
from regraft.types import Array

_DIGEST_ROWS = 65536


class Split:
    """Some rows of a store, in the order in which they stood in their source.

    Args:
        name: "train", "valid" or "test".
        store: The rows.
        rows_N: Positions in the store, ascending.
        kind: What the targets are read as (`targets.Kind`).
    """

    def __init__(self, name: str, store: RowStore, rows_N: Array, kind: Kind) -> None:
        self.name = name
        self._store = store
        self._rows_N = rows_N
        self._targets = [as_kind(value, kind) for value in store.targets]

    def __len__(self) -> int:
        return len(self._rows_N)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self._store.columns

    def place(self, row: int) -> str:
        """Return where a row stands ("mails.csv, row 17").

        Args:
            row: Position in this split, counting from 0.
        """
        return self._store.place(int(self._rows_N[row]))

    def row_number(self, row: int) -> int:
        """Return the number of a row in its source, counting from 1."""
        return self._store.number(int(self._rows_N[row]))

    def column(self, name: str) -> Column:
        """Return a column, read from disk where it is looked at.

        Raises:
            DataError: There is no such column.
        """
        if name not in self.columns:
            raise DataError(
                Problem(
                    what=f"there is no column '{name}'", where=f"the {self.name} rows", fix=did_you_mean(name, self.columns)
                )
            )
        return Column(self, name)

    def chunks(self, column: str, chunk_rows: int = 1024) -> Iterator[list[Any]]:
        """Yield the values of a column, `chunk_rows` at a time."""
        self.column(column)
        for start in range(0, len(self), chunk_rows):
            yield self.take(column, slice(start, start + chunk_rows))

    def values(self, column: str) -> list[Any]:
        """Return all values of a column, in memory."""
        return [value for chunk in self.chunks(column) for value in chunk]

    def take(self, column: str, rows: slice | Array) -> list[Any]:
        """Return the values of a column in some rows.

        Args:
            column: Name of the column.
            rows: Positions in this split.
        """
        inside = self._rows_N[rows]
        if column == self._store.target_column:
            return [self._targets[code] for code in self._store.codes_N[inside]]
        return self._store.take(column, inside)

    @property
    def plain_columns(self) -> dict[str, str]:
        """Names of the columns of single values as the data have them -> the column of this split that they stand in.

        Those that are read together stand in one; lists, mappings and bytes (pictures, sounds) are left out.
        """
        alone = {field.name: field.name for field in self._store.schema if is_plain(field.type)}
        joined = [self._store.schema.field(name) for name in (self._store.input_column, self._store.target_column)]
        inner = {
            field.name: column.name
            for column in joined
            if pa.types.is_struct(column.type)
            for field in column.type
            if is_plain(field.type)
        }
        return {**inner, **alone}

    def plain_chunks(self, name: str, chunk_rows: int = 4096) -> Iterator[list[Any]]:
        """Yield the values of one of the `plain_columns` as the data have them; nothing else is read.

        Args:
            name: Its name.
            chunk_rows: How many at a time.
        """
        column = self.plain_columns[name]
        field = name if pa.types.is_struct(self._store.schema.field(column).type) else ""
        for start in range(0, len(self), chunk_rows):
            yield self._store.take(column, self._rows_N[start : start + chunk_rows], field)

    def targets(self) -> list[Any]:
        """Return the target of every row, in the type it means."""
        return self.take(self._store.target_column, slice(None))

    def hub(self) -> Any:
        """Return the rows as a `datasets.Dataset` over the same file; targets as the file holds them."""
        return self._store.hub(self._rows_N)

    def keys(self) -> Array:
        """Return one number a row, equal for equal inputs."""
        keys: Array = self._store.keys_N[self._rows_N]
        return keys

    def fingerprint(self) -> dict[str, Any]:
        """Return number of rows, digest of the rows and digest of their order, over input and target (see `fingerprint`)."""
        target_digests = [value_digest(value) for value in self._targets]
        total, ordered = 0, hashlib.sha256()
        for start in range(0, len(self), _DIGEST_ROWS):
            inside = self._rows_N[start : start + _DIGEST_ROWS]
            inputs = np.ascontiguousarray(self._store.digests_N32[inside])
            codes = self._store.codes_N[inside]
            joined = b"".join(joined_digest(inputs[i].tobytes(), target_digests[code]) for i, code in enumerate(codes))
            ordered.update(joined)
            total += sum_digests(np.frombuffer(joined, dtype=np.uint8).reshape(-1, 32))
        return {"rows": len(self), "rows_digest": f"{total % 2**256:064x}", "order_digest": ordered.hexdigest()}


def is_plain(kind: pa.DataType) -> bool:
    """Return whether a column of a type holds single values that are not bytes."""
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind))


class Column(Sequence[Any]):
    """One column of a split; every access reads from disk.

    Args:
        split: The rows.
        name: Name of the column.
    """

    def __init__(self, split: Split, name: str) -> None:
        self._split = split
        self._name = name

    def __len__(self) -> int:
        return len(self._split)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self._split.take(self._name, index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._split.take(self._name, np.array([index]))[0]

    def __iter__(self) -> Iterator[Any]:
        for chunk in self._split.chunks(self._name):
            yield from chunk
