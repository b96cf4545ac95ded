"""By what rows are judged where no artifact says it: the column that holds the truth, and the task that it is the target of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from regraft.data.rows import RowSource
from regraft.data.targets import as_kind, as_number, is_missing, target_kind
from regraft.errors import DataError, Problem, did_you_mean
from regraft.serving.outside import Outside
from regraft.serving.truths import Truths
from regraft.tasks import TASKS, Task
from regraft.types import Ledger

_MANY = 20
"""Whole numbers of more different values than this are amounts, not classes."""


def judged_by(tables: Sequence[Outside], rows: RowSource, target: str | None) -> tuple[Task, Truths]:
    """Return the task that predictions made elsewhere are of, and what reads the truth.

    Args:
        tables: The predictions; those of the first say what they are of.
        rows: Labelled rows.
        target: Column that holds the truth.

    Raises:
        DataError: The column is not named or not there, or its values are no target of such predictions.
    """
    if target is None or target not in rows.columns:
        what = f"there is no column '{target}' to judge against" if target else "which column holds the truth is not known"
        fix = did_you_mean(target, rows.columns) if target else "name it with --target COLUMN"
        got = ", ".join(map(repr, rows.columns[:10]))
        raise DataError(Problem(what=what, where=rows.name, got=got, fix=fix))
    values = [value for chunk in rows.chunks() for value in chunk.rows.column(target).to_pylist() if not is_missing(value)]
    kind, _ = target_kind(list(dict.fromkeys(values)), rows.typed)
    seen = [as_kind(value, kind) for value in values]
    first = tables[0]
    quantiles = [name.partition(".")[2] for name in first.columns if name.startswith("quantile.")]
    if quantiles or (not first.probable_labels and _are_amounts(seen)):
        cls = TASKS.get("regression")
        # Nothing is learnt here: mean and spread play no part in judging, and the truth may well be constant.
        task = cls.restore(
            cls.Options(quantiles=tuple(_level(level, first) for level in quantiles)), {"mean": 0.0, "scale": 1.0}
        )
    else:
        cls = TASKS.get("classification")
        task = cls(cls.Options(min_rows=1))
        task.learn([*seen, *_more_labels(first, seen)], Ledger())
    return task, Truths.of_column(target, kind, rows.columns)


def _are_amounts(values: Sequence[Any]) -> bool:
    numbers = {as_number(value) for value in values}
    known = {number for number in numbers if number is not None}
    sound = len(known) == len(numbers) and bool(known)
    return sound and (len(known) > _MANY or len(known) == 1 or any(not number.is_integer() for number in known))


def _level(text: str, table: Outside) -> float:
    number = as_number(text)
    if number is None or not 0 < number < 1:
        what, fix = f"'quantile.{text}' names no level", "name columns of quantiles by their level: quantile.0.1"
        raise DataError(Problem(what=what, where=table.name, expected="a number between 0 and 1", fix=fix))
    return number


def _more_labels(table: Outside, seen: Sequence[Any]) -> list[Any]:
    """Return labels that have a column of probabilities and no row: a model may know more than these rows hold."""
    if not seen:
        return []
    kind = type(seen[0]).__name__
    return [label for name in table.probable_labels if (label := as_kind(name, kind)) not in set(seen)]


__all__ = ["judged_by"]
