"""Predictions that another model made elsewhere, as a table: judged by the same rules as an artifact's.

    id, probability.ham, probability.spam      one column a class, as `regraft predict` writes them
    id, prediction                             the answer alone: a label, a list of labels as JSON, or a number
    id, quantile.0.1, quantile.0.5, ...        for quantiles

Of several targets the names have the target in them (probability.TARGET.LABEL, prediction.TARGET). Rows are found by the column
`id` of both tables; where the data have none, they stand in the same order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regraft.data.formats import is_readable
from regraft.data.options import DataOptions
from regraft.data.reader import row_place
from regraft.data.rows import RowSource, open_rows
from regraft.data.targets import as_kind, as_number, is_missing, target_kind
from regraft.errors import DataError, Problem, did_you_mean
from regraft.evaluation.answer_kind import kind_for
from regraft.evaluation.kinds_of_classes import Classes
from regraft.evaluation.kinds_of_sets import LabelSets
from regraft.tasks.task import Part, Task
from regraft.types import Array, FloatArray

SUM_NEAR = 0.01
"""How far the probabilities of a row may be from 1 in total, since they may be rounded; they are then made to add up to 1."""
_PROBABILITY, _PREDICTION = "probability.", "prediction"
_SHOWN = 3


class Outside:
    """Predictions made elsewhere, read whole.

    Args:
        rows: The table.
        id_column: What the column is called that names rows.

    Raises:
        DataError: It has no predictions, or rows that cannot be read.
    """

    artifact = None

    def __init__(self, rows: RowSource, id_column: str) -> None:
        self.name, self.columns, self.id_column = rows.name, rows.columns, id_column
        self.values: dict[str, list[Any]] = {name: [] for name in rows.columns}
        self.places: list[str] = []
        problems: list[Problem] = []
        for chunk in rows.chunks():
            for name in rows.columns:
                self.values[name] += chunk.rows.column(name).to_pylist()
            source = chunk.source or rows.name
            self.places += [row_place(source, chunk.first_row + row) for row in range(chunk.rows.num_rows)]
            problems += list(chunk.bad.values())[: _SHOWN - len(problems)]
        if not any(name.partition(".")[0] in {"probability", _PREDICTION, "quantile"} for name in rows.columns):
            got = ", ".join(map(repr, rows.columns[:10]))
            near = did_you_mean(_PREDICTION, rows.columns)
            fix = f"name a column 'prediction', or one column a class 'probability.LABEL'; {near}"
            problems.append(Problem(what="the table holds no predictions", where=rows.name, got=got, fix=fix))
        if problems:
            raise DataError(problems)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def probable_labels(self) -> list[str]:
        """Labels that have a column of probabilities."""
        return [name.removeprefix(_PROBABILITY) for name in self.columns if name.startswith(_PROBABILITY)]

    def decides_only(self, task: Task) -> bool:
        """Return whether only answers stand here where the task has probabilities, so that no metric of these can be told."""
        return any(part.task.names and not self._numbered(part) for part in task.parts)

    def answers(self, task: Task, ids: Sequence[Any] | None, used: Array, data: str) -> FloatArray:
        """Return what is judged for the rows that are (N, C), in the task's order of columns.

        Args:
            task: What is predicted.
            ids: What names each row of the data, in their order; None where nothing does and the order counts.
            used: Positions of the rows that are judged (N,).
            data: What messages call the data.

        Raises:
            DataError: Rows are missing, doubled or unknown, or numbers are no predictions of this task; all problems at once.
        """
        if task.paired:
            what = "predictions of two parts against each other cannot be judged from a table"
            raise DataError(Problem(what=what, where=self.name, fix="compare artifacts"))
        places, problems = self._matched(ids, used, data)
        found = []
        for part in task.parts:
            numbers, wrong = self._numbers(part, places)
            found.append(numbers)
            problems += wrong
        if problems:
            raise DataError(problems)
        return np.concatenate(found, axis=1)

    def _matched(self, ids: Sequence[Any] | None, used: Array, data: str) -> tuple[Array, list[Problem]]:
        """Return for each judged row where its prediction stands, and what is wrong with ids."""
        name = self.id_column
        if ids is None:
            return self._in_order(used, data)
        if name not in self.columns:
            fix = f"write the ids of the data beside the predictions; {did_you_mean(name, self.columns)}"
            what = f"there is no column '{name}', by which rows of the data are found"
            return np.zeros(0, dtype=np.int64), [Problem(what=what, where=self.name, fix=fix)]
        wanted, own = [_text(value) for value in ids], [_text(value) for value in self.values[name]]
        problems = _doubled(own, self.places, f"ids stand twice in {self.name}")
        problems += _doubled(wanted, [f"{data}, row {row + 1}" for row in range(len(wanted))], f"ids stand twice in {data}")
        known, there = set(wanted), {value: place for place, value in enumerate(own)}
        unknown = [place for place, value in enumerate(own) if value not in known]
        if unknown:
            shown = ", ".join(own[place] for place in unknown[:_SHOWN])
            fix = "leave these rows out, or judge on the data that the predictions are of"
            problems.append(_rows_problem("ids are not in the data", [self.places[place] for place in unknown], shown, fix))
        missing = [int(row) for row in used if wanted[row] not in there]
        if missing:
            shown = ", ".join(wanted[row] for row in missing[:_SHOWN])
            fix, where = "predict these rows too, or leave them out of the data", [f"{data}, row {row + 1}" for row in missing]
            problems.append(_rows_problem(f"rows of the data have no prediction in {self.name}", where, shown, fix))
        return np.array([there.get(wanted[row], 0) for row in used], dtype=np.int64), problems

    def _in_order(self, used: Array, data: str) -> tuple[Array, list[Problem]]:
        fix = "give one prediction a row in the order of the data, or a column that names rows to both (judge.id)"
        if self.id_column in self.columns:
            what = f"the predictions have ids, and the data have no column '{self.id_column}'"
            return np.zeros(0, dtype=np.int64), [Problem(what=what, where=self.name, got=data, fix=fix)]
        last = int(used.max()) + 1 if len(used) else 0
        if len(self) < last:
            got, what = f"{len(self):,} predictions", "there are fewer predictions than rows of the data"
            return np.zeros(0, dtype=np.int64), [Problem(what=what, where=self.name, got=got, expected=f"{last:,}", fix=fix)]
        return used, []

    def surplus(self, rows: int) -> list[Problem]:
        """Return the problem of more predictions than there are rows, where the order counts."""
        if self.id_column in self.columns or len(self) <= rows:
            return []
        what = "there are more predictions than rows of the data"
        return [Problem(what=what, where=self.name, got=f"{len(self):,}", expected=f"{rows:,}", fix="give one a row, in order")]

    def _numbered(self, part: Part) -> bool:
        return any(name in self.columns for name in _columns(part))

    def _numbers(self, part: Part, places: Array) -> tuple[FloatArray, list[Problem]]:
        """Return what is judged of one target, and what is wrong with it."""
        width, names = len(part.task.names) or 1, _columns(part)
        nothing = np.zeros((len(places), width))
        alone = f"{_PREDICTION}.{part.name}" if part.name else _PREDICTION
        if not self._numbered(part):
            if alone in self.columns and not (part.name and part.task.names):
                return self._decided(part, alone, places)
            expected = ", ".join(map(repr, names[:10])) or f"'{alone}'"
            what = f"there are no predictions of '{part.name}'" if part.name else "there are no predictions for this task"
            fix = did_you_mean((names or (alone,))[0], self.columns)
            return nothing, [Problem(what=what, where=self.name, expected=expected, fix=fix)]
        problems = self._strange_columns(part, names)
        if problems:
            return nothing, problems
        found_NC = np.stack([self._column(name, places) for name in names], axis=1)
        problems = self._not_numbers(found_NC, places, names)
        if not problems and isinstance(kind_for(part.task), Classes | LabelSets):
            problems = self._not_probabilities(found_NC, places, adds_up=isinstance(kind_for(part.task), Classes))
        if not problems and isinstance(kind_for(part.task), Classes):
            found_NC /= found_NC.sum(axis=1, keepdims=True)
        return found_NC, problems

    def _strange_columns(self, part: Part, names: Sequence[str]) -> list[Problem]:
        """Return the problems of classes without a column, and of columns of labels that are none."""
        before = names[0].partition(".")[0] + "." + (f"{part.name}." if part.name else "")
        problems = []
        missing, own = [name for name in names if name not in self.columns], set(names)
        strange = [name for name in self.columns if name.startswith(before) and name not in own]
        if missing:
            what, got = "labels have no column of their own", ", ".join(missing[:10])
            problems.append(
                Problem(what=what, where=self.name, got=got, fix="write a column for every label; 0 where it is never")
            )
        if strange:
            got, known = ", ".join(strange[:10]), [name.removeprefix(before) for name in names]
            fix = f"leave these columns out; {did_you_mean(strange[0].removeprefix(before), known)}"
            what = "there are columns of labels that are not predicted"
            problems.append(Problem(what=what, where=self.name, got=got, expected=", ".join(known[:10]), fix=fix))
        return problems

    def _column(self, name: str, places: Array) -> FloatArray:
        values = self.values[name]
        numbers = (as_number(values[place]) for place in places.tolist())
        return np.array([np.nan if number is None else number for number in numbers], dtype=np.float64)

    def _not_numbers(self, found_NC: FloatArray, places: Array, names: Sequence[str]) -> list[Problem]:
        rows, columns = np.nonzero(~np.isfinite(found_NC))
        if not len(rows):
            return []
        shown = repr(self.values[names[int(columns[0])]][places[rows[0]]])
        where = [
            f"{self.places[places[row]]}, column '{names[column]}'"
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
        return [_rows_problem("predictions are no finite numbers", where, shown, "write a number for every row")]

    def _not_probabilities(self, found_NC: FloatArray, places: Array, *, adds_up: bool) -> list[Problem]:
        problems = []
        outside = np.flatnonzero(((found_NC < 0) | (found_NC > 1)).any(axis=1))
        if len(outside):
            shown = f"{found_NC[outside[0]].min():.4g} to {found_NC[outside[0]].max():.4g}"
            where = [self.places[places[row]] for row in outside]
            problems.append(_rows_problem("probabilities are not from 0 to 1", where, shown, "write probabilities, not logits"))
        sums_N = found_NC.sum(axis=1)
        odd = np.flatnonzero(np.abs(sums_N - 1.0) > SUM_NEAR) if adds_up and not len(outside) else ()
        if len(odd):
            shown = ", ".join(f"{sums_N[row]:.4g}" for row in odd[:_SHOWN])
            fix = f"divide them by their sum; rounding up to {SUM_NEAR:g} is taken care of"
            where = [self.places[places[row]] for row in odd]
            problems.append(_rows_problem("probabilities do not add up to 1", where, f"sums of {shown}", fix))
        return problems

    def _decided(self, part: Part, column: str, places: Array) -> tuple[FloatArray, list[Problem]]:
        """Return answers as what is judged: the class with probability 1, labels with 1, numbers as they are."""
        task, values = part.task, [self.values[column][place] for place in places.tolist()]
        nothing = np.zeros((len(places), len(task.names) or 1))
        kind = kind_for(task)
        sets = isinstance(kind, LabelSets)
        given = [_listed(value) if sets else _in_kind(value, task) for value in values]
        told = {
            row: "nothing stands there" if is_missing(value) and not sets else task.target_problem(value)
            for row, value in enumerate(given)
        }
        wrong = {row: problem for row, problem in told.items() if problem}
        if wrong:
            problems = []
            for problem in list(dict.fromkeys(wrong.values()))[:_SHOWN]:
                where = [f"{self.places[places[row]]}, column '{column}'" for row, one in wrong.items() if one == problem]
                problems.append(
                    _rows_problem("predictions are no answers of this task", where, problem, "mend the predictions")
                )
            return nothing, problems
        if not (sets or isinstance(kind, Classes)) and task.names:
            what, expected = "quantiles are judged, and only one prediction a row stands here", ", ".join(_columns(part))
            return nothing, [Problem(what=what, where=self.name, expected=expected, fix="write a column for every quantile")]
        truth = task.targets(given)
        if isinstance(kind, Classes):
            nothing[np.arange(len(places)), truth] = 1.0
            return nothing, []
        return truth.astype(np.float64).reshape(nothing.shape), []


def outside(given: Any, options: DataOptions, id_column: str, number: int) -> Outside | None:
    """Return predictions made elsewhere, if a thing is a file or a table of them; nothing for the folder of an artifact.

    Args:
        given: A path, or a table in memory.
        options: How to read a file.
        id_column: What the column is called that names rows.
        number: Place among what is compared, for the name of a table in memory.
    """
    if isinstance(given, str | Path):
        path = Path(given).expanduser()
        if path.is_dir() or not is_readable(path):
            return None
        return Outside(open_rows(path, options), id_column)
    made = Outside(open_rows(given, options), id_column)
    made.name = f"predictions {number}"
    return made


def unique_names(names: Iterable[str]) -> list[str]:
    """Return names in which those that stand several times are numbered.

    Example:
        >>> unique_names(["a", "b", "a"])
        ['a (first)', 'b', 'a (second)']
    """
    listed = list(names)
    counts, seen = Counter(listed), Counter[str]()
    found = []
    for name in listed:
        seen[name] += 1
        found.append(f"{name} ({_ordinal(seen[name])})" if counts[name] > 1 else name)
    return found


def _ordinal(number: int) -> str:
    words = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
    return words[number - 1] if number <= len(words) else str(number)


def _columns(part: Part) -> tuple[str, ...]:
    split = [name.partition(".") for name in part.task.answer_columns]
    return tuple(".".join(filter(None, (what, part.name, rest))) for what, _, rest in split)


def _in_kind(value: Any, task: Task) -> Any:
    """Return an answer in the type of the labels."""
    labels = getattr(task, "labels", ())
    if not labels or is_missing(value):
        return value
    return as_kind(value, target_kind(list(labels), typed=True)[0])


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    return [] if value is None else value


def _text(value: Any) -> str:
    """Return an id as text: 7 of one file and "7" of another are the same row."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value)


def _doubled(values: Sequence[str], places: Sequence[str], what: str) -> list[Problem]:
    first: dict[str, int] = {}
    again = [place for place, value in enumerate(values) if first.setdefault(value, place) != place]
    if not again:
        return []
    shown = ", ".join(f"{values[place]!r} (first in {places[first[values[place]]]})" for place in again[:_SHOWN])
    return [_rows_problem(what, [places[place] for place in again], shown, "keep one row of each")]


def _rows_problem(what: str, places: Sequence[str], shown: str, fix: str) -> Problem:
    more = f" and {len(places) - _SHOWN:,} more" if len(places) > _SHOWN else ""
    rows = f"{len(places):,} row{'' if len(places) == 1 else 's'}"
    return Problem(what=what, where="; ".join(places[:_SHOWN]) + more, got=f"{rows}: {shown}", fix=fix)


__all__ = ["Outside", "outside", "unique_names"]
