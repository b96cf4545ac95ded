"""Read Arrow IPC files and streams (also what `datasets` keeps in its cache)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from regraft.data.columns import check_names, drop_long_rows, plain_rows, plain_schema
from regraft.data.options import DataOptions
from regraft.data.reader import Chunk, Reader
from regraft.data.streams import require_file
from regraft.errors import DataError, Problem

_FILE_MAGIC = b"ARROW1"


class ArrowReader(Reader):
    """Read an Arrow IPC file or stream through a memory map; types are kept."""

    suffixes = (".arrow", ".feather", ".ipc", ".arrows")

    def __init__(self, path: Path, options: DataOptions) -> None:
        super().__init__(path, options)
        require_file(path)
        with path.open("rb") as file:
            self._is_file = file.read(len(_FILE_MAGIC)) == _FILE_MAGIC
        self._row_count = 0
        with self._batches() as (schema, batches):
            self._schema = plain_schema(schema)
            check_names(self._schema.names, str(path))
            for batch in batches:
                self._row_count += batch.num_rows
        self.notes.append(f"Arrow IPC {'file' if self._is_file else 'stream'}, {self._row_count:,} rows")

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self._schema

    @property
    def row_count(self) -> int:
        """Number of rows."""
        return self._row_count

    def chunks(self, chunk_rows: int) -> Iterator[Chunk]:
        """Yield every row in file order."""
        first = 1
        with self._batches() as (_, batches):
            for batch in batches:
                for start in range(0, batch.num_rows, chunk_rows):
                    rows = plain_rows(batch.slice(start, chunk_rows), self._schema)
                    rows, bad = drop_long_rows(rows, first, self.name, self.options.max_row_bytes)
                    yield Chunk(rows=rows, first_row=first, bad=bad, source=self.name)
                    first += rows.num_rows

    @contextmanager
    def _batches(self) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        with pa.memory_map(str(self.path)) as source:
            try:
                reader = pa.ipc.open_file(source) if self._is_file else pa.ipc.open_stream(source)
            except (pa.ArrowException, OSError) as error:
                raise DataError(self._damaged(error)) from error
            yield reader.schema, self._each(reader)

    def _each(self, reader: pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader) -> Iterator[pa.RecordBatch]:
        index = 0
        while True:
            try:
                if self._is_file and index >= reader.num_record_batches:
                    return
                batch = reader.get_batch(index) if self._is_file else reader.read_next_batch()
            except StopIteration:
                return
            except (pa.ArrowException, OSError) as error:
                raise DataError(self._damaged(error)) from error
            index += 1
            yield batch

    def _damaged(self, error: Exception) -> Problem:
        return Problem(
            what="the Arrow file is truncated or damaged"
            if self._is_file
            else "the file is not an Arrow file, or it is truncated",
            where=str(self.path),
            got=str(error).split("\n", 1)[0],
            expected="an Arrow IPC file or stream",
            fix="copy or write it again",
        )
