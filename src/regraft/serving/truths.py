"""What rows of the user's data should be answered with, as an artifact knows it: its columns, the kinds of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from regraft.data.targets import Cells, Kind, as_kind, is_missing, kind_of_answer

if TYPE_CHECKING:
    import pyarrow as pa

    from regraft.serving.predictor import Predictor


class Truths:
    """Reads the targets of rows.

    Args:
        predictor: Knows the columns and kinds of its targets.
        there: Columns of the data.
        target: Column that holds the truth; the one of the training data if not given. Of several targets they are always
            those.
    """

    def __init__(self, predictor: Predictor, there: Sequence[str], target: str | None = None) -> None:
        artifact = predictor.artifact
        own = target or (artifact.manifest.target.column if artifact is not None else "")
        self.together = bool(predictor.task.columns)
        self.wanted: tuple[str, ...] = predictor.task.columns or (own,)
        self.columns = tuple(name for name in self.wanted if name in there)
        example = predictor.example().value
        # An answer may be of several things (a vector for each part of a row) where the target is one.
        self.kind: Kind = kind_of_answer(example) if self.together else type(example).__name__

    @classmethod
    def of_column(cls, column: str, kind: Kind, there: Sequence[str]) -> Self:
        """Return what reads the targets from one column, where no artifact says it.

        Args:
            column: Its name.
            kind: What the targets are.
            there: Columns of the data.
        """
        made = cls.__new__(cls)
        made.together, made.wanted, made.kind = False, (column,), kind
        made.columns = tuple(name for name in made.wanted if name in there)
        return made

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
