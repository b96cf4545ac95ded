"""Read the .ts files of the UCR and UEA archives (https://www.timeseriesclassification.com), as aeon writes them.

    # a comment
    @problemName ArrowHead
    @timeStamps false
    @univariate true
    @classLabel true 0 1 2
    @data
    -1.96,-1.95,?,-1.90:0

A line after @data is a case: its dimensions, and its label last, between colons; numbers between commas; ? or NaN where nothing
was measured. With time stamps each number is (time,number).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from regraft.data.columns import long_row
from regraft.data.encoding import find_encoding
from regraft.data.options import DataOptions
from regraft.data.reader import CHUNK_BYTES, Chunk, Reader, row_place
from regraft.data.streams import LongLine, first_bytes, text_blocks, text_lines
from regraft.errors import DataError, Problem

SERIES, LABEL = "series", "label"
_COMMENTS = ("#", "%")
_MISSING = frozenset({"?", "nan", "none", ""})
_PAIR = re.compile(r"\(([^()]*),([^(),]*)\)")
_BETWEEN = re.compile(r":(?![^()]*\))")  # a colon that stands in no time
_YES = {"true": True, "false": False}
_FLAGS = frozenset({"timestamps", "univariate", "targetlabel"})


@dataclass(frozen=True)
class _Header:
    """What stands before @data.

    Args:
        name: Of the problem.
        stamped: Whether numbers have times.
        univariate: Whether a case has one dimension.
        labelled: Whether a case ends with a label.
        measured: Whether the label is a number that was measured and no name.
    """

    name: str
    stamped: bool
    univariate: bool
    labelled: bool
    measured: bool


class TsReader(Reader):
    """Read a .ts file: a column of series and a column of labels.

    A series of one dimension is a list of numbers, of several a list of lists, one a step; with time stamps it is an object of
    values and times.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".ts",)
    typed: ClassVar[bool] = False

    def __init__(self, path: Path, options: DataOptions) -> None:
        super().__init__(path, options)
        head, _ = first_bytes(path)
        self._encoding, note = find_encoding(head, path, options.encoding)
        self.notes.append(note)
        self._header = self._read_header()
        first = next(self._cases(), None)
        if first is None:
            raise DataError(
                Problem(what="the file has no rows: nothing stands after @data", where=str(path), fix="write it again")
            )
        self._dimensions, self._dated = self._layout(first)
        header = self._header
        dimensions = "1 dimension" if self._dimensions == 1 else f"{self._dimensions} dimensions"
        said = ", with times" if header.stamped else ""
        self.notes.append(f"{header.name or 'a problem without a name'}: series of {dimensions}{said}")

    @property
    def schema(self) -> pa.Schema:
        """The series, and the label where there is one."""
        kind = pa.list_(pa.float64())
        values = kind if self._dimensions == 1 else pa.list_(kind)
        if self._header.stamped:
            values = pa.struct([("values", values), ("times", pa.list_(pa.string() if self._dated else pa.float64()))])
        label = pa.float64() if self._header.measured else pa.string()
        return pa.schema([(SERIES, values), *([(LABEL, label)] if self._header.labelled else [])])

    def chunks(self, chunk_rows: int) -> Iterator[Chunk]:
        """Yield every case in file order; a bad one stands in its place with nulls."""
        rows: list[dict[str, Any]] = []
        bad: dict[int, Problem] = {}
        first, held = 1, 0
        for number, line in enumerate(self._cases(), start=1):
            try:
                rows.append(self._case(line))
            except ValueError as error:
                bad[len(rows)] = self._wrong(number, line, str(error))
                rows.append({})
            held += 0 if isinstance(line, LongLine) else len(line)
            if len(rows) >= chunk_rows or held > CHUNK_BYTES:
                yield self._chunk(rows, first, bad)
                first += len(rows)
                rows, bad, held = [], {}, 0
        if rows:
            yield self._chunk(rows, first, bad)

    def _chunk(self, rows: list[dict[str, Any]], first: int, bad: dict[int, Problem]) -> Chunk:
        batch = pa.RecordBatch.from_pylist(rows, schema=self.schema)
        return Chunk(rows=batch, first_row=first, bad=bad, source=self.name)

    def _lines(self) -> Iterator[str | LongLine]:
        return text_lines(text_blocks(self.path, self._encoding), "\n", self.options.max_row_bytes)

    def _cases(self) -> Iterator[str | LongLine]:
        inside = False
        for line in self._lines():
            if isinstance(line, LongLine):
                if inside:
                    yield line
            elif not inside:
                inside = line.strip().lower() == "@data"
            elif line.strip():
                yield line.strip()

    def _read_header(self) -> _Header:
        found: dict[str, list[str]] = {}
        problems: list[Problem] = []
        for number, line in enumerate(self._lines(), start=1):
            words = [] if isinstance(line, LongLine) else line.split()
            if not words or words[0].startswith(_COMMENTS):
                continue
            key = words[0].lower()
            if not key.startswith("@"):
                problems.append(self._odd_header(number, str(line), "a line that begins with @, # or %"))
                break
            if key == "@data":
                break
            found[key[1:]] = words[1:]
            if key[1:] in _FLAGS and (len(words) < 2 or words[1].lower() not in _YES):
                problems.append(self._odd_header(number, str(line), f"{words[0]} true, or {words[0]} false"))
        else:
            what, fix = "the file has no data: the line @data is missing", "copy or write it again"
            problems.append(Problem(what=what, where=str(self.path), expected="@data before the first case", fix=fix))
        if problems:
            raise DataError(problems)
        said = {key: _YES.get(values[0].lower()) if values else None for key, values in found.items()}
        measured = bool(said.get("targetlabel"))
        return _Header(
            name=" ".join(found.get("problemname", [])),
            stamped=bool(said.get("timestamps")),
            univariate=said.get("univariate") is not False,
            labelled=measured or said.get("classlabel") is not False,
            measured=measured,
        )

    def _odd_header(self, number: int, line: str, expected: str) -> Problem:
        what, fix = "a line of the header cannot be read", "correct the header, or check that the file is a .ts file"
        where = f"{self.path}, line {number}"
        return Problem(what=what, where=where, got=repr(line.strip()[:80]), expected=expected, fix=fix)

    def _layout(self, line: str | LongLine) -> tuple[int, bool]:
        """Return how many dimensions cases have, and whether their times are dates, as the first case has it."""
        if isinstance(line, LongLine):
            raise DataError(long_row(row_place(self.name, 1), line.size_bytes, self.options.max_row_bytes))
        dimensions, _ = self._split(line)
        stamps = _PAIR.findall(dimensions[0]) if self._header.stamped and dimensions else []
        return max(1, len(dimensions)), bool(stamps) and _number(stamps[0][0]) is None

    def _split(self, line: str) -> tuple[list[str], str]:
        """Return the dimensions of a case and its label."""
        parts = _BETWEEN.split(line) if self._header.stamped else line.split(":")
        return (parts[:-1], parts[-1].strip()) if self._header.labelled else (parts, "")

    def _case(self, line: str | LongLine) -> dict[str, Any]:
        if isinstance(line, LongLine):
            raise ValueError("the row is too long")
        dimensions, label = self._split(line)
        if len(dimensions) != self._dimensions:
            raise ValueError(f"{len(dimensions)} dimensions, expected {self._dimensions} as in the first case")
        if self._header.univariate and len(dimensions) > 1:
            raise ValueError(f"{len(dimensions)} dimensions, expected 1: the header says @univariate true")
        times: list[list[str]] = []
        values = [self._numbers(dimension, times) for dimension in dimensions]
        lengths = sorted({len(one) for one in values})
        if len(lengths) > 1:
            raise ValueError(f"dimensions of {' and '.join(map(str, lengths))} numbers, expected as many in each")
        series: Any = values[0] if self._dimensions == 1 else [list(step) for step in zip(*values, strict=True)]
        if self._header.stamped:
            if any(other != times[0] for other in times[1:]):
                raise ValueError("dimensions with different times, expected the same times in each")
            series = {"values": series, "times": times[0] if self._dated else [_stamp(time) for time in times[0]]}
        return {SERIES: series, LABEL: self._label(label)} if self._header.labelled else {SERIES: series}

    def _numbers(self, dimension: str, times: list[list[str]]) -> list[float | None]:
        if not self._header.stamped:
            return [_value(text) for text in dimension.split(",")]
        pairs = _PAIR.findall(dimension)
        if _PAIR.sub("", dimension).strip(" ,\t"):
            raise ValueError(f"{dimension[:40]!r}, expected (time,number),(time,number)")
        times.append([time.strip() for time, _ in pairs])
        return [_value(text) for _, text in pairs]

    def _label(self, text: str) -> str | float | None:
        if text.lower() in _MISSING:
            return None
        if not self._header.measured:
            return text
        found = _number(text)
        if found is None:
            raise ValueError(f"the label {text[:40]!r}, expected a number: the header says @targetLabel true")
        return found

    def _wrong(self, number: int, line: str | LongLine, reason: str) -> Problem:
        where = row_place(self.name, number)
        if isinstance(line, LongLine):
            return long_row(where, line.size_bytes, self.options.max_row_bytes)
        got, _, expected = reason.partition(", expected ")
        return Problem(
            what="the case cannot be read", where=where, got=got, expected=expected, fix="correct the line, or remove it"
        )


def _value(text: str) -> float | None:
    text = text.strip()
    if text.lower() in _MISSING:
        return None
    found = _number(text)
    if found is None:
        raise ValueError(f"{text[:40]!r}, expected numbers between commas, or ? where nothing was measured")
    return found


def _stamp(text: str) -> float:
    found = _number(text)
    if found is None:
        raise ValueError(f"the time {text[:40]!r}, expected a number as in the first case")
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
