"""What a writer is: chunks of rows in, one file out, atomically."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import pyarrow as pa


class Writer(ABC):
    """Write one format to a file that appears whole or not at all.

    Rows go to a hidden file beside `path`, which is renamed onto it when the `with` block ends without an error and removed
    when it ends with one.

    Args:
        path: Where the finished file will stand; may end in .gz or .zst where the format allows it.
    """

    suffixes: ClassVar[tuple[str, ...]]

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def write(self, rows: pa.RecordBatch) -> None:
        """Append rows; every call has the same schema. A batch of 0 rows fixes the columns of a file without rows."""

    @abstractmethod
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
