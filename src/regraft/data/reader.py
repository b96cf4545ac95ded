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


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows of one file.

    Args:
        rows: The columns; a bad row stands in its place with nulls.
        first_row: Number of the first row in the file, counting data rows from 1 (a header is not a row).
        bad: Index in this chunk -> what is wrong with that row.
    """

    rows: pa.RecordBatch
    first_row: int
    bad: Mapping[int, Problem] = field(default_factory=dict)


class Reader(ABC):
    """Read one format.

    A reader finds out what it can about a file when it is made (encoding, delimiter, header, columns), keeps it in `notes` as
    sentences for people, and refuses at once what can never be read.

    Args:
        path: The file; may end in .gz or .zst.
        options: How to read; what is not given is detected.

    Raises:
        DataError: The file is missing, empty, truncated, binary or not of this format.
    """

    suffixes: ClassVar[tuple[str, ...]]

    def __init__(self, path: Path, options: DataOptions) -> None:
        self.path = path
        self.options = options
        self.notes: list[str] = []

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """Names of the columns, in file order."""

    @abstractmethod
    def chunks(self, chunk_rows: int) -> Iterator[Chunk]:
        """Yield every row in file order, at most `chunk_rows` at a time, all chunks with the same columns."""
