"""Read Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from regraft.data.columns import check_names, drop_long_rows, plain_rows, plain_schema
from regraft.data.options import DataOptions
from regraft.data.reader import CHUNK_BYTES, Chunk, Reader
from regraft.data.streams import require_file
from regraft.errors import DataError, Problem


class ParquetReader(Reader):
    """Read a Parquet file row group by row group; types are kept."""

    suffixes = (".parquet", ".pq")

    def __init__(self, path: Path, options: DataOptions) -> None:
        super().__init__(path, options)
        require_file(path)
        with self._open() as file:
            self._schema = plain_schema(file.schema_arrow)
            self._row_count = int(file.metadata.num_rows)
            groups = file.metadata.num_row_groups
            size = sum(file.metadata.row_group(i).total_byte_size for i in range(groups))
        self._most_rows = max(1, CHUNK_BYTES * max(1, self._row_count) // max(1, size))
        check_names(self._schema.names, str(path))
        self.notes.append(f"Parquet, {self._row_count:,} rows in {groups} row groups")

    def _open(self) -> Any:
        from pyarrow import parquet

        try:
            # Reading ahead would hold the compressed bytes of a whole row group.
            return parquet.ParquetFile(self.path, memory_map=True, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            raise DataError(_damaged(self.path, error)) from error

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self._schema

    @property
    def row_count(self) -> int:
        """Number of rows, as the footer says."""
        return self._row_count

    def chunks(self, chunk_rows: int) -> Iterator[Chunk]:
        """Yield every row in file order."""
        first = 1
        with self._open() as file:
            batches = file.iter_batches(batch_size=min(chunk_rows, self._most_rows))
            while True:
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                except (pa.ArrowException, OSError) as error:
                    raise DataError(_damaged(self.path, error, first)) from error
                rows = plain_rows(batch, self._schema)
                rows, bad = drop_long_rows(rows, first, self.name, self.options.max_row_bytes)
                yield Chunk(rows=rows, first_row=first, bad=bad, source=self.name)
                first += batch.num_rows


def _damaged(path: Path, error: Exception, row: int = 0) -> Problem:
    with path.open("rb") as file:
        begins = file.read(4) == b"PAR1"
    what = "the Parquet file is truncated or damaged" if begins else "the file is not a Parquet file"
    return Problem(
        what=what,
        where=f"{path}, after row {row - 1}" if row else str(path),
        got=str(error).split("\n", 1)[0],
        expected="a Parquet file, from its first to its last four bytes 'PAR1'",
        fix="copy or write it again" if begins else "let the name of the file say what it is",
    )
