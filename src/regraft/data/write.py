"""Write CSV, TSV, JSON lines and Parquet."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import math
from abc import abstractmethod
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO, ClassVar, Self, TextIO

import pyarrow as pa

from regraft.data.atomic import atomic_file
from regraft.data.streams import compression_of
from regraft.data.writer import Writer
from regraft.errors import DataError, Problem


class _FileWriter(Writer):
    """Open and close the hidden file; formats say what goes into it."""

    def __init__(self, path: Path) -> None:
        super().__init__(Path(path))
        self._schema: pa.Schema | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._open(stack.enter_context(atomic_file(self.path)), stack)
            self._stack = stack.pop_all()
        return self

    def write(self, rows: pa.RecordBatch) -> None:
        """Append rows; every call has the same schema."""
        if self._schema is None:
            self._schema = rows.schema
            self._begin(rows.schema)
        elif not rows.schema.equals(self._schema):
            raise ValueError(f"rows with the schema {rows.schema} cannot follow rows with {self._schema}")
        if rows.num_rows:
            self._append(rows)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and self._schema is None:
            error = ValueError(f"nothing was written to {self.path}: write at least a batch of 0 rows, which names the columns")
            self._stack.__exit__(ValueError, error, None)
            raise error
        self._stack.__exit__(kind, error, trace)

    @abstractmethod
    def _open(self, file: BinaryIO, stack: ExitStack) -> None: ...

    @abstractmethod
    def _begin(self, schema: pa.Schema) -> None: ...

    @abstractmethod
    def _append(self, rows: pa.RecordBatch) -> None: ...


class TextWriter(_FileWriter):
    """Write a text format in UTF-8, compressed if the name ends in .gz or .zst; the same rows give the same bytes."""

    def _open(self, file: BinaryIO, stack: ExitStack) -> None:
        codec = compression_of(self.path)
        self._file: Any = stack.enter_context(_compressed(file, codec)) if codec else file

    def _begin(self, schema: pa.Schema) -> None:
        refuse_bytes(schema, self.path.name)

    def _put(self, text: str) -> None:
        self._file.write(text.encode())


def _compressed(file: BinaryIO, codec: str) -> pa.CompressedOutputStream:
    return pa.CompressedOutputStream(pa.PythonFile(_StaysOpen(file), mode="w"), codec)


class _StaysOpen:
    """Keep Arrow from closing a file that must still be made durable."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.closed = False

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self.closed = True


class CsvWriter(TextWriter):
    """Write delimited text with a header; fractions are written so that they read back exactly, nulls as nothing.

    Lists and objects are written as JSON.
    """

    suffixes = (".csv",)
    delimiter: ClassVar[str] = ","

    def _begin(self, schema: pa.Schema) -> None:
        super()._begin(schema)
        self._lines: list[str] = []
        # csv quotes a carriage return only if the line end holds one, so lines are made with both and end with "\n" on disk.
        self._csv = csv.writer(_Lines(self._lines), delimiter=self.delimiter, lineterminator="\r\n")
        self._csv.writerow(schema.names)
        self._flush()

    def _append(self, rows: pa.RecordBatch) -> None:
        columns = [[_csv_value(value) for value in column.to_pylist()] for column in rows.columns]
        self._csv.writerows(zip(*columns, strict=True))
        self._flush()

    def _flush(self) -> None:
        self._put("".join(self._lines))
        self._lines.clear()


class TsvWriter(CsvWriter):
    """Write delimited text with tabs between fields, quoted as in CSV."""

    suffixes = (".tsv",)
    delimiter = "\t"


class _Lines:
    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def write(self, line: str) -> int:
        self._lines.append(line[:-2] + "\n")
        return len(line)


def _csv_value(value: Any) -> Any:
    if value.__class__ is str or value is None or value.__class__ is float:
        return value
    if value.__class__ is bool:
        return "true" if value else "false"
    if isinstance(value, (list, dict, bytes)):
        return json.dumps(json_value(value), ensure_ascii=False)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return value


class JsonLinesWriter(TextWriter):
    """Write one JSON object a line; NaN and infinities, which JSON does not have, are written as null."""

    suffixes = (".jsonl", ".ndjson")

    def _append(self, rows: pa.RecordBatch) -> None:
        self._put("".join(json_line(row) for row in rows.to_pylist()))


class StreamWriter(Writer):
    """Write JSON lines to a text stream that is already open, such as standard output.

    Args:
        stream: Where the lines go; flushed after every batch, never closed.
    """

    suffixes = ()

    def __init__(self, stream: TextIO | IO[str]) -> None:
        super().__init__(Path("-"))
        self._stream = stream
        self._begun = False

    def __enter__(self) -> Self:
        return self

    def write(self, rows: pa.RecordBatch) -> None:
        """Append rows."""
        if not self._begun:
            refuse_bytes(rows.schema, "standard output")
            self._begun = True
        self._stream.write("".join(json_line(row) for row in rows.to_pylist()))
        self._stream.flush()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the stream open."""


def refuse_bytes(schema: pa.Schema, where: str) -> None:
    """Refuse columns of bytes, which a text format cannot hold, before a row is written.

    Raises:
        DataError: One problem for each such column.
    """
    fix = "leave the column out, or write Parquet"
    problems = [
        Problem(what="a text format cannot hold bytes", where=f"{where}, column '{field.name}'", got=str(field.type), fix=fix)
        for field in schema
        if _holds_bytes(field.type)
    ]
    if problems:
        raise DataError(problems)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def json_line(row: dict[str, Any]) -> str:
    """Return a row as one line of JSON."""
    return json.dumps({name: json_value(value) for name, value in row.items()}, ensure_ascii=False) + "\n"


def json_value(value: Any) -> Any:
    """Return a value as JSON can hold it.

    Raises:
        DataError: The value is bytes, which JSON cannot hold.
    """
    if value.__class__ is str or value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):  # a tuple is a key and a value of an Arrow map
        return [json_value(part) for part in value]
    if isinstance(value, dict):
        return {str(name): json_value(part) for name, part in value.items()}
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, datetime.timedelta)):
        return str(value)
    fix = "leave the column out, or write Parquet"
    raise DataError(Problem(what="a text format cannot hold this value", got=f"{type(value).__name__}: {value!r:.60}", fix=fix))


class ParquetWriter(_FileWriter):
    """Write Parquet, compressed with zstd; types are kept."""

    suffixes = (".parquet", ".pq")

    def _open(self, file: BinaryIO, stack: ExitStack) -> None:
        self._file = file

    def _begin(self, schema: pa.Schema) -> None:
        from pyarrow import parquet

        sink = pa.PythonFile(_StaysOpen(self._file), mode="w")
        self._parquet = self._stack.enter_context(parquet.ParquetWriter(sink, schema, compression="zstd"))

    def _append(self, rows: pa.RecordBatch) -> None:
        self._parquet.write_batch(rows)
