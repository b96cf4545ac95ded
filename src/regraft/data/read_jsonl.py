"""Read JSON lines: one JSON object a line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from regraft.data.columns import check_names, long_row
from regraft.data.encoding import find_encoding
from regraft.data.options import DataOptions
from regraft.data.read_delimited import undecodable
from regraft.data.reader import CHUNK_BYTES, Chunk, Reader, row_place
from regraft.data.streams import LongLine, first_bytes, text_blocks, text_lines
from regraft.data.typing_rows import ColumnTypes, kind_of, nested_value, typed_rows
from regraft.errors import DataError, Problem

_SINGLE = (str, int, float, bool, type(None))


class JsonLinesReader(Reader):
    """Read one JSON object a line; keys are columns, a missing key is a null.

    The file is read through once when the reader is made: only then are the columns and their types known.
    """

    suffixes = (".jsonl", ".ndjson", ".json")

    def __init__(self, path: Path, options: DataOptions) -> None:
        super().__init__(path, options)
        head, _ = first_bytes(path)
        self._encoding, note = find_encoding(head, path, options.encoding)
        self.notes.append(note)
        text = codecs.getincrementaldecoder(self._encoding)("surrogateescape").decode(head)
        if text.lstrip().startswith("["):
            raise DataError(_one_array(path))
        self._schema, self._row_count = self._look_through()
        self.notes.append(f"JSON lines with the keys {', '.join(self._schema.names)}")

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the keys."""
        return self._schema

    @property
    def row_count(self) -> int:
        """Number of rows, bad ones included."""
        return self._row_count

    def chunks(self, chunk_rows: int) -> Iterator[Chunk]:
        """Yield every row in file order; a bad row stands in its place with nulls."""
        rows: list[dict[str, Any]] = []
        bad: dict[int, Problem] = {}
        first, held = 1, 0
        for number, (row, size) in enumerate(self._rows(), start=1):
            held += size
            problem = row if isinstance(row, Problem) else self._nested(row, number)
            if problem is not None:
                bad[len(rows)] = problem
            rows.append({} if isinstance(row, Problem) or problem is not None else row)
            if len(rows) >= chunk_rows or held > CHUNK_BYTES:
                yield self._chunk(rows, first, bad)
                first += len(rows)
                rows, bad, held = [], {}, 0
        if rows:
            yield self._chunk(rows, first, bad)

    def _chunk(self, rows: list[dict[str, Any]], first: int, bad: dict[int, Problem]) -> Chunk:
        batch, more = typed_rows(rows, self._schema, first, self.name)
        return Chunk(rows=batch, first_row=first, bad={**more, **bad}, source=self.name)

    def _nested(self, row: dict[str, Any], number: int) -> Problem | None:
        for key, value in row.items():
            if value.__class__ not in _SINGLE and kind_of(value) is None:
                return nested_value(row_place(self.name, number), key, value, "JSON")
        return None

    def _rows(self) -> Iterator[tuple[dict[str, Any] | Problem, int]]:
        number = 0
        limit = self.options.max_row_bytes
        decode = json.JSONDecoder(parse_constant=_refuse_constant).decode
        for line in text_lines(text_blocks(self.path, self._encoding), "\n", limit):
            if isinstance(line, LongLine):
                number += 1
                yield long_row(row_place(self.name, number), line.size_bytes, limit), 0
                continue
            if not line.strip():
                continue
            number += 1
            try:
                row = decode(line)
            except (ValueError, RecursionError) as error:
                yield self._invalid(line, number, error), 0
                continue
            if row.__class__ is not dict:
                yield self._invalid(line, number, ValueError(f"a {type(row).__name__} instead of an object")), 0
            elif not line.isascii() and _broken(line):
                yield undecodable(row_place(self.name, number), line, self._encoding), 0
            else:
                yield row, len(line)

    def _invalid(self, line: str, number: int, error: Exception) -> Problem:
        if not line.isascii() and _broken(line):
            return undecodable(row_place(self.name, number), line, self._encoding)
        shown = line.strip()
        return Problem(
            what="the line is not a JSON object",
            where=row_place(self.name, number),
            got=f"{shown[:80]!r}: {error or type(error).__name__}",
            expected='one JSON object a line, such as {"text": "...", "label": "..."}',
            fix="correct the line, or remove it",
        )

    def _look_through(self) -> tuple[pa.Schema, int]:
        types = ColumnTypes(self.name, "JSON")
        number, first = 0, None
        for number, (row, _) in enumerate(self._rows(), start=1):
            problem = row if isinstance(row, Problem) else types.observe(row, number)
            first = first or problem
        schema = types.schema()
        if not schema.names:
            empty = Problem(
                what="the file has no rows: only blank lines or empty objects", where=str(self.path), fix="write it again"
            )
            raise DataError(first or empty)
        check_names(schema.names, str(self.path), "give every key a name")
        return schema, number


def _broken(line: str) -> bool:
    try:
        line.encode()
    except UnicodeEncodeError:
        return True
    return False


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number; write null")


def _one_array(path: Path) -> Problem:
    return Problem(
        what="the file holds one JSON array, not JSON lines",
        where=str(path),
        got="'[' as the first character",
        expected="one JSON object a line, without brackets around and commas between them",
        fix=f"write one object a line, for example with: jq -c '.[]' {path.name} > rows.jsonl",
    )
