"""Rows of one source, streamed once into an Arrow file that is read through a memory map.

The file is an Arrow IPC stream, the format in which the `datasets` library keeps its own; `RowStore.hub` opens it there.
Beside the file only whole numbers are held in memory: for each row its number in the source, 8 bytes that stand for its input,
and the number of its target. The digests of the inputs stand in a second file.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from regraft.data.atomic import machine_errors
from regraft.data.fingerprint import DIGEST_BYTES, value_digest
from regraft.data.reader import row_place
from regraft.types import Array

_FIX = "free some space, or let the variable TMPDIR name a folder on a larger disk"


class RowStore:
    """Finished rows, read only.

    Args:
        path: The Arrow file.
        digests: The file with the digests of the inputs.
        columns: Input column and target column.
        record: What was noted while the rows were written.
    """

    def __init__(self, path: Path, digests: Path, columns: tuple[str, str], record: StoreWriter) -> None:
        self.path = path
        self.input_column, self.target_column = columns
        self._table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        self._batches = self._table.to_batches()
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self._sources, self._source_starts = record.sources, record.source_starts
        self._numbers_N = np.concatenate(record.numbers)
        self.keys_N: Array = np.concatenate(record.keys)
        self.codes_N: Array = np.concatenate(record.codes)
        self.targets = list(record.codebook)
        self.digests_N32: Array = np.memmap(digests, dtype=np.uint8, mode="r").reshape(-1, DIGEST_BYTES)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self._table.schema.names)

    def number(self, row: int) -> int:
        """Return the number of a row in its source."""
        return int(self._numbers_N[row])

    def place(self, row: int) -> str:
        """Return where a row stands ("mails.csv, row 17")."""
        return row_place(self._sources[bisect_right(self._source_starts, row) - 1], self.number(row))

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self._table.schema

    def take(self, column: str, rows: Array, field: str = "") -> list[Any]:
        """Return the values of a column in some rows.

        Args:
            column: Name of the column.
            rows: Positions in this store.
            field: One of the columns that it is made of, whose values are wanted; nothing of the others is read.
        """
        index = self._table.schema.get_field_index(column)
        if not len(rows):
            return []
        batch_of = np.searchsorted(self._starts, rows, side="right") - 1
        breaks = np.flatnonzero(np.diff(batch_of)) + 1
        values: list[Any] = []
        for part in np.split(np.arange(len(rows)), breaks):
            batch = batch_of[part[0]]
            local = rows[part] - self._starts[batch]
            whole = self._batches[batch].column(index)
            values += (pc.struct_field(whole, field) if field else whole).take(pa.array(local)).to_pylist()
        return values

    def hub(self, rows: Array) -> Any:
        """Return rows as a `datasets.Dataset` over the same file."""
        import datasets

        whole = datasets.Dataset.from_file(str(self.path))
        return whole if len(rows) == len(self) else whole.select(rows)


class StoreWriter:
    """Write the rows of one source.

    Args:
        folder: A private folder that outlives the store.
        name: Name of the files in it.
        schema: Columns of every batch.
        columns: Input column and target column.

    Raises:
        MachineError: The disk of the folder is full.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema, columns: tuple[str, str]) -> None:
        self._path, self._digests_path = folder / f"{name}.arrow", folder / f"{name}.digests"
        self._columns = columns
        self._schema = schema
        self.sources: list[str] = []
        self.source_starts: list[int] = []
        self.numbers: list[Array] = []
        self.keys: list[Array] = []
        self.codes: list[Array] = []
        self.codebook: dict[Any, int] = {}
        self.rows = 0

    def __enter__(self) -> Self:
        with machine_errors(self._path, _FIX):
            self._file = pa.OSFile(str(self._path), "wb")
            self._writer = pa.ipc.new_stream(self._file, self._schema)
            self._digests = self._digests_path.open("wb")
        return self

    def write(
        self, rows: pa.RecordBatch, numbers: Sequence[int], source: str, values: tuple[Sequence[Any], Sequence[Any]]
    ) -> None:
        """Append rows.

        Args:
            rows: The columns.
            numbers: Number of each row in its source.
            source: Name of the source.
            values: Inputs and targets of the rows, none missing.
        """
        inputs, targets = values
        joined = b"".join(map(value_digest, inputs))
        with machine_errors(self._path, _FIX):
            self._writer.write_batch(rows)
            self._digests.write(joined)
        if not self.sources or self.sources[-1] != source:
            self.sources.append(source)
            self.source_starts.append(self.rows)
        self.rows += rows.num_rows
        self.numbers.append(np.asarray(numbers, dtype=np.int64))
        self.keys.append(np.frombuffer(joined, dtype="<u8")[:: DIGEST_BYTES // 8].copy())
        book = self.codebook
        keys = (tuple(value) if value.__class__ is list else value for value in targets)
        self.codes.append(np.fromiter((book.setdefault(key, len(book)) for key in keys), dtype=np.int32, count=len(targets)))

    def finish(self) -> RowStore:
        """Return the rows for reading; call after the `with` block, with at least one row."""
        return RowStore(self._path, self._digests_path, self._columns, self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with machine_errors(self._path, _FIX):
            self._digests.close()
            self._writer.close()
            self._file.close()


def joined_digest(input_digest: bytes, target_digest: bytes) -> bytes:
    """Return the digest of a row of input and target; the same as `fingerprint.row_digest` of the two values."""
    return hashlib.sha256(input_digest + target_digest).digest()
