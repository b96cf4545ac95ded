"""Answer a whole file in bounded memory: any reader in, any writer out, order and identity of rows kept.

    row, <the columns of the input>, prediction, probability.<label> ... or quantile.<level> ..., error

and, where they are asked for, interval.low and interval.high or set, and abstained, before the error.

Of several targets, prediction.<target> for each, and probability.<target>.<label> ..., quantile.<target>.<level> ...

A name that the input has already is written with `regraft_` before ours, and the summary says so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from regraft.data.reader import Chunk, row_place
from regraft.data.writer import Writer
from regraft.errors import DataError, Problem, did_you_mean
from regraft.serving.predictor import SHOWN_PROBLEMS, WINDOW_ROWS, Predictor, Progress, shortened
from regraft.tasks.labels import label_name
from regraft.types import Ledger, Prediction

if TYPE_CHECKING:
    from regraft.data.rows import RowSource
    from regraft.data.write import StreamWriter

_ARROW_TYPES = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
_PREFIX = "regraft_"
Look = Callable[[Sequence[Any]], tuple[list[Any], dict[int, Problem]]]


@dataclass(frozen=True, kw_only=True)
class StreamSummary:
    """What came of answering a source.

    Args:
        rows: Rows read, and written.
        answered: Rows with an answer.
        bad: Rows with an error in its place.
        seconds: How long it took.
        columns: Names of the columns written.
        ledger: What was lost: truncated tokens (frames, steps), rows without an answer.
        notes: Sentences for people.
    """

    rows: int
    answered: int
    bad: int
    seconds: float
    columns: tuple[str, ...]
    ledger: Ledger
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return the summary as a JSON object."""
        counts = {"rows": self.rows, "answered": self.answered, "bad": self.bad, "seconds": round(self.seconds, 3)}
        return {**counts, "columns": list(self.columns), "ledger": self.ledger.to_json(), "notes": list(self.notes)}


@dataclass(frozen=True)
class Window:
    """Consecutive rows that are answered together.

    Args:
        rows: The columns.
        bad: Position in the window -> what the reader found wrong with the row.
        origins: (position in the window, file, number of the row in the file) of every stretch of rows from one file.
        folders: File -> folder in which it lies, where it is a file.
    """

    rows: pa.RecordBatch
    bad: Mapping[int, Problem]
    origins: tuple[tuple[int, str, int], ...]
    folders: Mapping[str, Path | None] = field(default_factory=dict)

    def place(self, index: int) -> str:
        """Return where a row stands in the data ("mails.csv, row 17")."""
        start, source, first_row = next(origin for origin in reversed(self.origins) if origin[0] <= index)
        return row_place(source, first_row + index - start)

    def stretches(self) -> Iterator[tuple[int, int, Path | None]]:
        """Yield first and last position + 1 of every stretch of rows from one file, and the folder of the file."""
        ends = [start for start, _, _ in self.origins[1:]] + [self.rows.num_rows]
        for (start, source, _), end in zip(self.origins, ends, strict=True):
            yield start, end, self.folders.get(source)


class AnswerColumns:
    """The columns of the output: which names and types, and how predictions fill them.

    Args:
        inputs: Schema of the input columns.
        example: Any answer of the predictor; shows the numbers beside an answer and its type.
    """

    def __init__(self, inputs: pa.Schema, example: Prediction) -> None:
        self.inputs = inputs
        self._numbers = tuple(example.numbers)
        self._targets = tuple(example.parts)
        self._beside = tuple(_beside(example))
        self._types = [_value_type(one) for one in (example.parts.values() or [example])]
        row, *given, error = self.names()
        types = [*(kind or pa.string() for kind in self._types), *(pa.float64() for _ in self._numbers)]
        types += [column.kind for column in self._beside]
        ours = [pa.field(name, kind) for name, kind in zip(given, types, strict=True)]
        self.schema = pa.schema([pa.field(row, pa.int64()), *inputs, *ours, pa.field(error, pa.string())])

    @property
    def _wanted(self) -> list[str]:
        answers = [f"prediction.{name}" for name in self._targets] or ["prediction"]
        return ["row", *answers, *self._numbers, *(column.name for column in self._beside), "error"]

    def names(self) -> list[str]:
        """Return the names of our columns: row, prediction (one a target), one for each thing beside the answer, error."""
        taken = set(self.inputs.names)
        names = []
        for name in self._wanted:
            free = name
            while free in taken:
                free = _PREFIX + free
            taken.add(free)
            names.append(free)
        return names

    def notes(self) -> list[str]:
        """Return a sentence for each of our columns that had to take another name."""
        pairs = zip(self._wanted, self.names(), strict=True)
        return [f"the data have a column '{want}' already: ours is called '{name}'" for want, name in pairs if want != name]

    def batch(self, first_row: int, rows: pa.RecordBatch, predictions: list[Prediction]) -> pa.RecordBatch:
        """Return the output for consecutive rows."""
        columns: list[Any] = [range(first_row, first_row + len(predictions)), *rows.columns]
        for place, kind in enumerate(self._types):
            columns.append([_written(self._answer(prediction, place), kind) for prediction in predictions])
        numbers = [prediction.numbers for prediction in predictions]
        columns += [[found.get(name) for found in numbers] for name in self._numbers]
        columns += [[column.of(prediction) for prediction in predictions] for column in self._beside]
        columns.append([prediction.error or None for prediction in predictions])
        arrays = [
            column.cast(kind.type) if isinstance(column, pa.Array) else pa.array(column, kind.type)
            for column, kind in zip(columns, self.schema, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _answer(self, prediction: Prediction, place: int) -> Any:
        if not self._targets or prediction.value is None:
            return prediction.value
        return prediction.value[self._targets[place]]


@dataclass(frozen=True)
class _Beside:
    """A column of what is told beside answers, but is no number.

    Args:
        name: Of the column.
        field: Of `Prediction`.
        target: Whose, where there are several.
        kind: Type of the column.
    """

    name: str
    field: str
    target: str
    kind: pa.DataType

    def of(self, prediction: Prediction) -> Any:
        """Return what stands in the column for a prediction."""
        own = prediction.parts.get(self.target) if self.target else prediction
        value = None if own is None else getattr(own, self.field)
        return [label_name(label) for label in value] if isinstance(value, tuple) else value


def _beside(example: Prediction) -> Iterator[_Beside]:
    """Yield the columns of sets, then those of abstentions, of every target that has them."""
    each = example.parts or {"": example}
    for field_name, kind in (("set", pa.list_(pa.string())), ("abstained", pa.bool_())):
        for target, one in each.items():
            if getattr(one, field_name) is not None:
                yield _Beside(".".join(filter(None, (field_name, target))), field_name, target, kind)


def _value_type(example: Prediction) -> pa.DataType | None:
    """Return the type of a column of answers; nothing where they are written as JSON."""
    if isinstance(example.value, list) and example.probabilities:
        return pa.list_(pa.string())
    return _ARROW_TYPES.get(type(example.value))


def _written(value: Any, kind: pa.DataType | None) -> Any:
    return value if kind is not None or value is None else json.dumps(value, ensure_ascii=False)


def predict_stream(
    predictor: Predictor, source: RowSource, writer: Writer | StreamWriter, *, batch_size: int, strict: bool, progress: Progress
) -> StreamSummary:
    """Answer every row of a source; see `Predictor.predict_stream`."""
    began = time.perf_counter()
    _check_column(predictor, source)
    if strict:
        _check_rows(predictor, source)
    ledger, done = Ledger(), 0
    layout: AnswerColumns | None = None
    with writer as out:
        for window in windows(source.chunks(WINDOW_ROWS)):
            if layout is None:
                layout = AnswerColumns(window.rows.schema, predictor.example())
            predictions = _answer(predictor, window, batch_size)
            out.write(layout.batch(done + 1, window.rows, predictions))
            _count(ledger, window, predictions, predictor.modality.unit)
            done += len(predictions)
            progress(done, source.row_count)
        if layout is None:
            layout = AnswerColumns(source.schema, predictor.example())
            out.write(pa.RecordBatch.from_pylist([], schema=layout.schema))
    bad = ledger.counts.get("rows without an answer", 0)
    return StreamSummary(
        rows=done,
        answered=done - bad,
        bad=bad,
        seconds=time.perf_counter() - began,
        columns=tuple(layout.schema.names),
        ledger=ledger,
        notes=tuple(layout.notes()),
    )


def windows(chunks: Iterable[Chunk], size: int = WINDOW_ROWS) -> Iterator[Window]:
    """Cut chunks of any length into windows of `size` rows (the last may be shorter), whatever the reader's chunks are."""
    held: list[pa.RecordBatch] = []
    bad: dict[int, Problem] = {}
    origins: list[tuple[int, str, int]] = []
    folders: dict[str, Path | None] = {}
    count = 0
    for chunk in chunks:
        folders[chunk.source] = chunk.folder
        bad |= {count + index: problem for index, problem in chunk.bad.items()}
        origins.append((count, chunk.source, chunk.first_row))
        held.append(chunk.rows)
        count += chunk.rows.num_rows
        while count >= size:
            joined = held[0] if len(held) == 1 else pa.concat_batches(held)
            yield Window(joined.slice(0, size), {i: p for i, p in bad.items() if i < size}, _within(origins, size), folders)
            held, count = [joined.slice(size)], count - size
            bad = {i - size: problem for i, problem in bad.items() if i >= size}
            origins = _later(origins, size)
    if count:
        yield Window(pa.concat_batches(held), bad, tuple(origins), folders)


def _within(origins: list[tuple[int, str, int]], size: int) -> tuple[tuple[int, str, int], ...]:
    return tuple(origin for origin in origins if origin[0] < size)


def _later(origins: list[tuple[int, str, int]], size: int) -> list[tuple[int, str, int]]:
    """Return the stretches after the first `size` rows; the one that is cut goes on at the row where it was cut."""
    last = max(i for i, (start, _, _) in enumerate(origins) if start <= size)
    start, source, first_row = origins[last]
    cut = (0, source, first_row + size - start)
    return [cut, *((start - size, source, first_row) for start, source, first_row in origins[last + 1 :])]


def _answer(predictor: Predictor, window: Window, batch_size: int) -> list[Prediction]:
    raws, problems = _raws(predictor, window, predictor.taken)  # what cannot be encoded says so when it is
    return predictor.window(raws, {**problems, **window.bad}, batch_size)


def _raws(predictor: Predictor, window: Window, looked_at: Look) -> tuple[list[Any], dict[int, Problem]]:
    """Return the raw values of a window of the user's own data, files that they name read, and what is wrong with some.

    Args:
        predictor: Answers.
        window: The rows.
        looked_at: `predictor.raws`, or `predictor.taken`.
    """
    values = predictor.values(window.rows)
    unopened: dict[int, str] = {}
    for start, end, folder in window.stretches():
        found, wrong = predictor.modality.brought(values[start:end], folder)
        values[start:end] = found
        unopened |= {start + i: why for i, why in wrong.items()}
    raws, problems = looked_at(values if predictor.modality.columns else [{predictor.column: value} for value in values])
    return raws, {**problems, **{i: Problem(what=why, fix="correct or remove the row") for i, why in unopened.items()}}


def _count(ledger: Ledger, window: Window, predictions: list[Prediction], unit: str) -> None:
    for index, prediction in enumerate(predictions):
        if not prediction.error and not prediction.dropped:
            continue
        where = window.place(index)
        if prediction.error:
            ledger.add("rows without an answer", 1, where)
        if prediction.dropped:
            ledger.add(f"truncated {unit}", prediction.dropped, where)
            ledger.add("truncated rows", 1, where)


def _check_column(predictor: Predictor, source: RowSource) -> None:
    got = ", ".join(f"'{name}'" for name in source.columns)
    problems = [
        Problem(
            what=f"the column '{name}', which the artifact reads, is missing",
            where=source.name,
            got=got,
            expected=f"'{name}'",
            fix=f"rename the column that holds it to '{name}': {did_you_mean(name, source.columns)}",
        )
        for name in predictor.columns
        if name not in source.columns
    ]
    if problems:
        raise DataError(problems)


def _check_rows(predictor: Predictor, source: RowSource) -> None:
    """Look at every row before any is answered, so that a strict run fails at once and with all its problems."""
    found: dict[int, Problem] = {}
    done = count = 0
    in_column = "" if predictor.modality.columns else f", column '{predictor.column}'"
    for window in windows(source.chunks(WINDOW_ROWS)):
        _, problems = _raws(predictor, window, predictor.raws)
        for index, problem in {**problems, **window.bad}.items():
            place = problem.where if index in window.bad else window.place(index) + in_column
            count += 1
            if len(found) < SHOWN_PROBLEMS:
                found[done + index] = replace(problem, where=place)
        done += window.rows.num_rows
    if found:
        raise DataError(shortened(found, count))
