"""The answers to the judged rows as a Parquet file, so that anybody can compute the figures of a report again.

    row                 place of the row in the test split, counting from 0
    truth               what is true: the name of a class, a list of labels, a number
    prediction          what was answered, in the same form; absent where a row by itself has no answer
    probability.LABEL   what the model gave, as the columns of `regraft predict` (quantile.LEVEL for quantiles)
    outputs             instead of these columns, one list a row, where there are many columns or they have no names

Where there are several targets, names have the target in them (TARGET.truth, TARGET.prediction, probability.TARGET.LABEL), and
a row without it has no truth. The metadata of the file's schema hold under "regraft" how many rows were judged and how many
are here.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.artifact.store import PREDICTIONS
from regraft.errors import ArtifactError, Problem
from regraft.evaluation.answer_kind import AnswerKind, kind_for
from regraft.evaluation.answers import Answers
from regraft.options import JSON
from regraft.types import Array, FloatArray

if TYPE_CHECKING:
    from regraft.tasks.task import Part, Task

MOST_ROWS, MOST_NUMBERS = 200_000, 16_000_000
"""Rows, and numbers in all, that are kept; of more, rows evenly spaced."""
NAMED_COLUMNS = 200
"""Up to so many outputs a row, each has a column of its own."""
_KEY, _ROW, _TRUTH, _PREDICTION, _OUTPUTS = "regraft", "row", "truth", "prediction", "outputs"


def kept_rows(rows: int, columns: int) -> Array:
    """Return which rows are kept: all, or so many as the limits allow, evenly spaced.

    Args:
        rows: Rows judged.
        columns: Outputs a row.

    Example:
        >>> len(kept_rows(1_000, 10)), len(kept_rows(1_000_000, 2)), kept_rows(1_000_000, 2)[:3].tolist()
        (1000, 200000, [0, 5, 10])
    """
    most = max(1, min(rows, MOST_ROWS, MOST_NUMBERS // max(columns, 1)))
    found: Array = np.arange(most, dtype=np.int64) * rows // most
    return found


def to_bytes(answers: Answers) -> bytes:
    """Return the content of the file."""
    import pyarrow as pa
    from pyarrow import parquet

    width = answers.outputs_NC.shape[1] if answers.outputs_NC.ndim > 1 else 1
    rows = kept_rows(len(answers), width)
    some = answers.some(rows)
    columns: dict[str, Any] = {_ROW: pa.array(rows)}
    for part in answers.task.parts:
        columns |= _columns(part, some)
    about = {"judged": len(answers), "kept": len(rows), "note": note(len(answers), len(rows))}
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(about)})
    file = io.BytesIO()
    parquet.write_table(table, file, compression="zstd")
    return file.getvalue()


def note(judged: int, kept: int) -> str:
    """Return the sentence that says which rows are in the file, or nothing where all are."""
    return "" if kept == judged else f"{kept:,} of {judged:,} judged rows, evenly spaced, are in {PREDICTIONS}"


def read(path: Path, task: Task) -> tuple[Array, Answers]:
    """Return the places of the rows in the test split and the answers to them.

    Args:
        path: The file, verified.
        task: What is predicted.

    Raises:
        ArtifactError: The file does not fit the task.
    """
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        rows: Array = table.column(_ROW).to_numpy()
        truths = [dict(zip([part.name for part in task.parts], values, strict=True)) for values in _truths(table, task)]
        whole = kind_for(task)
        targets = whole.targets_of(truths if task.several else [values[""] for values in truths])
        outputs = np.concatenate([_outputs(table, part) for part in task.parts], axis=1)
    except (KeyError, ValueError, TypeError, OSError) as error:
        got = f"{type(error).__name__}: {error}"[:300]
        what, fix = "the kept answers cannot be read", "fit again with this version"
        raise ArtifactError(Problem(what=what, where=str(path), got=got, fix=fix)) from error
    return rows, Answers(task, targets, outputs)


def _columns(part: Part, answers: Answers) -> dict[str, Any]:
    import pyarrow as pa

    kind, before = kind_for(part.task), f"{part.name}." if part.name else ""
    there = part.rows(answers.targets_N)
    own_NC = answers.outputs_NC[:, part.judged]
    truths: list[JSON] = [None] * len(answers)
    for row, value in zip(there.tolist(), kind.truths(part.own(answers.targets_N, there)), strict=True):
        truths[row] = value
    found, values = {f"{before}{_TRUTH}": pa.array(truths)}, kind.values(own_NC)
    if any(value is not None for value in values):
        found[f"{before}{_PREDICTION}"] = pa.array(values)
    names = _output_names(part, kind)
    if names:
        found |= {name: pa.array(column_N) for name, column_N in zip(names, own_NC.T, strict=True)}
    elif not _is_answer(kind, own_NC):
        found[f"{before}{_OUTPUTS}"] = pa.array(own_NC.tolist(), pa.list_(pa.float64()))
    return found


def _output_names(part: Part, kind: AnswerKind) -> list[str]:
    names = part.task.answer_columns
    if not 0 < len(names) == len(kind.columns) <= NAMED_COLUMNS:
        return []
    split = [name.partition(".") for name in names]
    return [".".join(filter(None, (what, part.name, rest))) for what, _, rest in split]


def _is_answer(kind: AnswerKind, own_NC: FloatArray) -> bool:
    """Return whether the one output of a row is its answer, which stands there already."""
    return own_NC.shape[1] == 1 and not kind.columns


def _truths(table: Any, task: Task) -> zip[tuple[JSON, ...]]:
    names = [f"{part.name}.{_TRUTH}" if part.name else _TRUTH for part in task.parts]
    return zip(*(table.column(name).to_pylist() for name in names), strict=True)


def _outputs(table: Any, part: Part) -> FloatArray:
    kind, before = kind_for(part.task), f"{part.name}." if part.name else ""
    names = _output_names(part, kind)
    if names:
        return np.stack([table.column(name).to_numpy() for name in names], axis=1)
    if f"{before}{_OUTPUTS}" not in table.column_names:
        found: FloatArray = table.column(f"{before}{_PREDICTION}").to_numpy()[:, None]
        return found
    return np.array(table.column(f"{before}{_OUTPUTS}").to_pylist())
