"""Records of a delimited file, one at a time, with what is wrong where a record cannot be read.

Quoting follows RFC 4180: a field with a delimiter, a quote or a line end stands in double quotes, a quote inside is doubled.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass

from regraft.data.columns import long_row
from regraft.data.reader import row_place
from regraft.data.streams import LongLine, utf8_size
from regraft.errors import DataError, Problem


class _TooLong(Exception):  # noqa: N818 - a signal between the feed and the loop, never seen outside
    """The record that is being fed is longer than the limit."""


class _Feed:
    """Give lines to `csv.reader` and remember those of the current record."""

    def __init__(self, lines: Iterator[str | LongLine], limit_bytes: int) -> None:
        self._lines = lines
        self._again: list[str] = []
        self._limit = limit_bytes
        self.kept: list[str] = []
        self.size = 0
        self.line = 0
        self.long: LongLine | None = None

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._lines)
        self.line += 1
        if isinstance(line, LongLine):
            self.long = line
            raise _TooLong
        self.kept.append(line)
        self.size += len(line)
        if self.size > self._limit:
            raise _TooLong
        return line

    def begin(self) -> None:
        """Forget the record that is finished."""
        self.kept = []
        self.size = 0
        self.long = None

    def go_back(self) -> None:
        """Feed the lines after the first one of this record once more."""
        self._again += reversed(self.kept[1:])
        self.line -= len(self.kept) - 1


@dataclass(frozen=True)
class Layout:
    """How a delimited file is laid out.

    Args:
        delimiter: Character between fields.
        width: Number of fields of a sound record; 0 accepts any.
        limit_bytes: Most bytes of a record.
        source: Name of the file in messages.
        header: Whether the first record is not a row.
    """

    delimiter: str
    width: int
    limit_bytes: int
    source: str
    header: bool


def read_records(lines: Iterator[str | LongLine], layout: Layout) -> Iterator[tuple[list[str] | Problem, int]]:
    """Yield each record's fields, or what is wrong with it, and its size in characters; blank lines are no records.

    A record with a quoting error costs its first line only: reading goes on with the next line, so that one stray quote does
    not swallow the rows after it.

    Raises:
        DataError: A quoted field is not closed before the end of the file or is so long that rows would vanish in it.
    """
    # The field limit is a global of the csv module with a default below our own limit; it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), layout.limit_bytes + 1))
    feed = _Feed(lines, layout.limit_bytes)
    reader = csv.reader(feed, delimiter=layout.delimiter, strict=True)
    row = -1 if layout.header else 0
    while True:
        feed.begin()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except _TooLong:
            row += 1
            yield _skip_long(feed, layout, row), 0
            continue
        except csv.Error as error:
            row += 1
            yield _misquoted(feed, layout, row, str(error)), 0
            continue
        if not fields or (layout.width > 1 and len(fields) == 1 and not fields[0].strip()):
            continue
        row += 1
        if 4 * feed.size > layout.limit_bytes:
            size = sum(map(utf8_size, feed.kept))
            if size > layout.limit_bytes:
                yield long_row(row_place(layout.source, row), size, layout.limit_bytes), 0
                continue
        if layout.width and len(fields) != layout.width:
            yield _wrong_width(fields, layout, row), 0
        else:
            yield fields, feed.size


def _wrong_width(fields: list[str], layout: Layout, row: int) -> Problem:
    shown = layout.delimiter.join(fields)
    quoted = "a field that holds the delimiter or a line end must stand in double quotes"
    return Problem(
        what="the row has a wrong number of fields",
        where=row_place(layout.source, row),
        got=f"{len(fields)} fields: {shown[:80]!r}",
        expected=f"{layout.width} fields",
        fix=quoted if len(fields) > layout.width else "add what is missing, or remove the row",
    )


def _misquoted(feed: _Feed, layout: Layout, row: int, reason: str) -> Problem:
    line = feed.line - len(feed.kept) + 1
    feed.go_back()
    if "new-line" in reason:
        what, expected = (
            "the row holds a carriage return outside quotes",
            "line ends of one kind, or the field in double quotes",
        )
    else:
        what, expected = "the row is quoted wrongly", 'a quoted field that ends with a quote; a quote inside it doubled ("")'
    shown = feed.kept[0].rstrip("\r\n")
    where = f"{row_place(layout.source, row)} (line {line})"
    return Problem(
        what=what, where=where, got=f"{shown[:80]!r}: {reason}", expected=expected, fix="correct the quotes of this row"
    )


def _skip_long(feed: _Feed, layout: Layout, row: int) -> Problem:
    """Read to the end of a record that is too long, without keeping it."""
    start = feed.line - len(feed.kept) + (1 if feed.long is None else 0)
    size = sum(map(utf8_size, feed.kept))
    quotes = sum(line.count('"') for line in feed.kept)
    last = ""
    if feed.long is not None:
        size, quotes = size + feed.long.size_bytes, quotes + feed.long.quotes
    while quotes % 2:
        feed.begin()
        try:
            last = next(feed)
        except StopIteration:
            raise DataError(_unclosed(layout, row, start, f"the file ends at line {feed.line}")) from None
        except _TooLong:
            if feed.long is not None:
                size, quotes, last = size + feed.long.size_bytes, quotes + feed.long.quotes, ""
                continue
            last = feed.kept[-1]
        size, quotes = size + utf8_size(last), quotes + last.count('"')
    if last:
        try:
            next(csv.reader(['"' + last], delimiter=layout.delimiter, strict=True))
        except csv.Error:
            raise DataError(
                _unclosed(layout, row, start, f"the next quote, in line {feed.line}, does not end a field")
            ) from None
    return long_row(row_place(layout.source, row), size, layout.limit_bytes)


def _unclosed(layout: Layout, row: int, line: int, seen: str) -> Problem:
    return Problem(
        what="a quote is opened and never closed, so that the rows after it cannot be told apart",
        where=f"{row_place(layout.source, row)} (line {line})",
        got=f"more than {layout.limit_bytes:,} bytes without a closing quote; {seen}",
        expected='a quoted field that ends with a quote; a quote inside it doubled ("")',
        fix="close or double the quote in this row",
    )
