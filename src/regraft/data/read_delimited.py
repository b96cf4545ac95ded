"""Read CSV and TSV files."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from regraft.data.columns import arrow_column, blank_rows, check_names
from regraft.data.dialect import delimiter_name, find_delimiter, find_header, records
from regraft.data.encoding import find_encoding
from regraft.data.options import DataOptions
from regraft.data.reader import CHUNK_BYTES, Chunk, Reader, row_place
from regraft.data.records import Layout, read_records
from regraft.data.streams import first_bytes, text_blocks, text_lines
from regraft.errors import DataError, Problem


class CsvReader(Reader):
    """Read a delimited text file; every column is a column of strings.

    Fields may be quoted, with line ends and doubled quotes inside. A header and blank lines are not rows.
    """

    suffixes = (".csv", ".txt")
    typed = False
    usual_delimiter: ClassVar[str | None] = None

    def __init__(self, path: Path, options: DataOptions) -> None:
        super().__init__(path, options)
        head, complete = first_bytes(path)
        self._encoding, note = find_encoding(head, path, options.encoding)
        self.notes.append(note)
        text = codecs.getincrementaldecoder(self._encoding)("surrogateescape").decode(head)
        self._newline = "\r" if "\r" in text and "\n" not in text else "\n"
        self._delimiter = self._find_delimiter(text, complete)
        self._names = self._find_names(records(text, self._delimiter, self._newline, complete))

    @cached_property
    def schema(self) -> pa.Schema:
        """Names of the columns, all strings."""
        return pa.schema([(name, pa.string()) for name in self._names])

    def chunks(self, chunk_rows: int) -> Iterator[Chunk]:
        """Yield every row in file order; a bad row stands in its place with nulls."""
        found = self._records(width=len(self._names))
        if self._header:
            next(found)
        width = len(self._names)
        rows: list[list[str | None]] = []
        bad: dict[int, Problem] = {}
        first, held = 1, 0
        for fields, size in found:
            if isinstance(fields, Problem):
                bad[len(rows)] = fields
                rows.append([None] * width)
            else:
                rows.append(fields)  # type: ignore[arg-type]
                held += size
            if len(rows) >= chunk_rows or held > CHUNK_BYTES:
                yield self._chunk(rows, first, bad)
                first += len(rows)
                rows, bad, held = [], {}, 0
        if rows:
            yield self._chunk(rows, first, bad)

    def _records(self, width: int) -> Iterator[tuple[list[str] | Problem, int]]:
        limit = self.options.max_row_bytes
        lines = text_lines(text_blocks(self.path, self._encoding), self._newline, limit)
        return read_records(lines, Layout(self._delimiter, width, limit, self.name, self._header))

    def _chunk(self, rows: list[list[str | None]], first: int, bad: dict[int, Problem]) -> Chunk:
        arrays: list[pa.Array] = []
        broken: set[int] = set()
        for name, values in zip(self._names, zip(*rows, strict=True), strict=True):
            array, wrong = arrow_column(values, pa.string())
            arrays.append(array)
            broken.update(wrong)
            for i in wrong:
                bad.setdefault(i, undecodable(row_place(self.name, first + i, name), str(values[i]), self._encoding))
        batch = blank_rows(pa.RecordBatch.from_arrays(arrays, schema=self.schema), broken)
        return Chunk(rows=batch, first_row=first, bad=bad, source=self.name)

    def _find_delimiter(self, text: str, complete: bool) -> str:
        given = self.options.delimiter or self.usual_delimiter
        if given:
            how = "as given" if self.options.delimiter else "as the name of the file says"
            self.notes.append(f"delimiter {delimiter_name(given)}, {how}")
            return given
        delimiter, note = find_delimiter(text, self._newline, complete, self.path)
        self.notes.append(note)
        return delimiter

    def _find_names(self, sample: list[list[str]]) -> list[str]:
        self._header = True
        first = next(self._records(width=0), None)
        if first is None:
            raise DataError(Problem(what="the file has no rows: only blank lines", where=str(self.path), fix="write it again"))
        names = first[0]
        if isinstance(names, Problem):
            raise DataError(Problem(**{**vars(names), "where": f"{self.path}, the first record"}))
        self._header, why = find_header([names, *sample[1:]])
        if self.options.header is not None:
            self._header, why = self.options.header, "as given"
        if not self._header:
            self.notes.append(f"no header ({why}): the columns are called column_1 to column_{len(names)}")
            return [f"column_{i}" for i in range(1, len(names) + 1)]
        self.notes.append(f"header: {', '.join(name.strip() for name in names)} ({why})")
        fix = "correct the header (or, if the first line is a row, --set data.header=false)"
        if not names[0].strip():
            fix += "; a data frame writes no unnamed column with to_csv(index=False)"
        check_names(names, f"{self.path}, header", fix)
        stripped = [name.strip() for name in names]
        check_names(stripped, f"{self.path}, header")
        return stripped


class TsvReader(CsvReader):
    """Read a delimited text file whose fields stand between tabs, quoted as in CSV."""

    suffixes = (".tsv", ".tab")
    usual_delimiter = "\t"


def undecodable(where: str, text: str, encoding: str) -> Problem:
    """Return the problem of a row with bytes that are not text in the encoding of its file."""
    at = next((i for i, char in enumerate(text) if "\ud800" <= char <= "\udfff"), 0)
    byte = f"byte 0x{ord(text[at]) - 0xDC00:02x}" if "\udc80" <= text[at] <= "\udcff" else "a lone surrogate"
    shown = text[max(0, at - 20) : at + 20].encode("ascii", "backslashreplace").decode()
    return Problem(
        what=f"the row holds bytes that are not {encoding.removesuffix('-sig').upper()}",
        where=where,
        got=f"{byte} near '{shown}'",
        expected=f"text in {encoding.removesuffix('-sig').upper()}",
        fix="correct the row, or name the encoding of the file with data.encoding",
    )
