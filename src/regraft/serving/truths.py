"""What rows of the user's data should be answered with, as an artifact knows it: its columns, the kinds of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from regraft.data.targets import Cells, as_kind, is_missing, kind_of_answer

if TYPE_CHECKING:
    import pyarrow as pa

    from regraft.serving.predictor import Predictor


class Truths:
    """Reads the targets of rows.

    Args:
        predictor: Knows the columns and kinds of its targets.
        there: Columns of the data.
    """

    def __init__(self, predictor: Predictor, there: Sequence[str]) -> None:
        artifact = predictor.artifact
        own = artifact.manifest.target.column if artifact is not None else ""
        self.together = bool(predictor.task.columns)
        self.wanted: tuple[str, ...] = predictor.task.columns or (own,)
        self.columns = tuple(name for name in self.wanted if name in there)
        example = predictor.example().value
        # An answer may be of several things (a vector for each part of a row) where the target is one.
        self.kind = kind_of_answer(example) if self.together else type(example).__name__

    @property
    def absent(self) -> tuple[str, ...]:
        """Columns of targets that the data do not have."""
        return tuple(name for name in self.wanted if name not in self.columns)

    def of(self, rows: pa.RecordBatch) -> list[Any]:
        """Return what each row should be answered with, None where that is not known; of several targets those that are."""
        if not self.columns:
            return [None] * rows.num_rows
        found = {name: rows.column(name).to_pylist() for name in self.columns}
        if self.together:
            cells = [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True)]
            values: list[Any] = [Cells.of({name: row.get(name) for name in self.wanted}) for row in cells]
        else:
            (values,) = found.values()
        return [None if is_missing(value) else as_kind(value, self.kind) for value in values]
