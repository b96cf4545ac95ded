"""What a reader is: one file in, chunks of rows out, never the whole file in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from regraft.data.options import DataOptions
from regraft.errors import Problem

CHUNK_BYTES = 32 * 2**20
"""A chunk of text rows ends early when it holds this much, so that long rows cost no more memory than short ones."""


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows of one file.

    Args:
        rows: The columns; a bad row stands in its place with nulls.
        first_row: Number of the first row in the file, counting data rows from 1 (a header or a blank line is not a row).
        bad: Index in this chunk -> what is wrong with that row.
        source: Name of the file, as messages call it.
        folder: Where the file lies; paths in its rows start there. None for what is in memory.
    """

    rows: pa.RecordBatch
    first_row: int
    bad: Mapping[int, Problem] = field(default_factory=dict)
    source: str = ""
    folder: Path | None = None

    def place(self, index: int) -> str:
        """Return where a row of this chunk stands ("mails.csv, row 17")."""
        return row_place(self.source, self.first_row + index)


class Reader(ABC):
    """Read one format.

    A reader finds out what it can about a file when it is made (encoding, delimiter, header, columns), keeps it in `notes` as
    sentences for people, and refuses at once what can never be read.

    Args:
        path: The file; may end in .gz or .zst where the format is text.
        options: How to read; what is not given is detected.

    Raises:
        DataError: The file is missing, empty, truncated, binary or not of this format.
    """

    suffixes: ClassVar[tuple[str, ...]]
    typed: ClassVar[bool] = True
    """Whether the format itself says what is a number; otherwise every value is a string."""

    def __init__(self, path: Path, options: DataOptions) -> None:
        self.path = path
        self.options = options
        self.notes: list[str] = []

    @property
    def name(self) -> str:
        """What messages call this file."""
        return self.path.name

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in file order."""
        return list(self.schema.names)

    @property
    def row_count(self) -> int | None:
        """Number of rows, bad ones included, where it is known without reading the file again."""
        return None

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """Names and types of the columns; every chunk has them."""

    @abstractmethod
    def chunks(self, chunk_rows: int) -> Iterator[Chunk]:
        """Yield every row in file order, at most `chunk_rows` at a time, all chunks with the same columns."""


def row_place(source: str, row: int, column: str = "") -> str:
    """Return how messages name a row ("mails.csv, row 17, column 'label'")."""
    return f"{source}, row {row}" + (f", column '{column}'" if column else "")
