"""Rows whose truth is known, as targets and raw values; what cannot be judged is counted or refused, each with its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pyarrow import RecordBatch

from regraft.artifact.learnt_rows import are_learnt, learnt_rows
from regraft.data.clean import lacking_reason
from regraft.data.reader import Chunk
from regraft.data.rows import RowSource
from regraft.errors import DataError, Problem, did_you_mean
from regraft.evaluation.clusters import group_codes
from regraft.evaluation.options import JudgeOptions
from regraft.serving.predictor import Predictor
from regraft.serving.truths import Truths
from regraft.tasks import Task
from regraft.types import Array, Ledger

LEARNT = "rows that were learnt from"
_CHUNK_ROWS = 1024
_SHOWN = 20
_PLACES = 3

Taking = Callable[[RecordBatch, Sequence[int], int, Mapping[tuple[str, ...], Sequence[Any]]], None]
"""Takes in a chunk, the places in it of the rows that are judged, the number of its first row, and their raw values."""


class LabelledRows:
    """Read rows once, for all who are asked about them.

    Args:
        rows: The rows.
        truths: Reads what is true.
        predictors: Who is asked.
        task: What is predicted.
        judge: Which column groups rows and which names them, and what is done with rows that were learnt from.
        take: Takes in the judged rows of each chunk.

    Raises:
        DataError: A column that is named is not there.
    """

    def __init__(
        self,
        rows: RowSource,
        truths: Truths,
        predictors: Sequence[Predictor],
        task: Task,
        judge: JudgeOptions,
        take: Taking | None = None,
    ) -> None:
        self.rows, self.truths, self.task, self.judge, self._take = rows, truths, task, judge, take
        self.inputs = {predictor.columns: predictor for predictor in predictors}
        self.ledger, self.notes = Ledger(), list[str]()
        self.read = self.used = self.overlapping = 0
        self.positions: list[int] = []
        """Of the rows that are judged, counting all rows from 0."""
        self.ids: list[Any] | None = [] if judge.id in rows.columns else None
        """What names each row that was read."""
        self._groups: list[Any] = []
        self._unknown: dict[str, list[str]] = {}
        self._learnt_places: list[str] = []
        self._learnt = [(p.columns, keys) for p in predictors if (keys := learnt_rows(p.artifact)) is not None]
        if judge.group is not None and judge.group not in rows.columns:
            fix = did_you_mean(judge.group, rows.columns)
            raise DataError(Problem(what=f"there is no column '{judge.group}' (judge.group)", where=rows.name, fix=fix))

    def chunks(self) -> Iterator[tuple[Array, dict[tuple[str, ...], list[Any]], list[str]]]:
        """Yield targets (B,), for all columns that are read together the raw values of the same rows, and where they stand.

        Once something is found that will be refused, rows are only looked at.
        """
        for chunk in self.rows.chunks(_CHUNK_ROWS):
            truth = self.truths.of(chunk.rows)
            raws = {}
            for columns, predictor in self.inputs.items():  # what cannot be read stays, and is a problem
                raws[columns], _ = predictor.modality.brought(predictor.values(chunk.rows), chunk.folder)
            good = [row for row in range(chunk.rows.num_rows) if self._usable(chunk, truth[row], raws, row)]
            good = self._unseen(chunk, raws, good)
            if self.ids is not None:
                self.ids += chunk.rows.column(self.judge.id).to_pylist()
            if self.judge.group is not None:
                named = chunk.rows.column(self.judge.group).to_pylist()
                self._groups += [named[row] for row in good]
            self.positions += [self.read + row for row in good]
            self.read += chunk.rows.num_rows
            self.used += len(good)
            if good and not self._refused:
                kept = {columns: [found[row] for row in good] for columns, found in raws.items()}
                if self._take is not None:
                    self._take(chunk.rows, good, chunk.first_row, kept)
                yield (
                    self.task.targets([truth[row] for row in good]),
                    kept,
                    [_place(self.rows.name, chunk, row) for row in good],
                )

    def groups(self, targets: Array) -> Array | None:
        """Return which of the judged rows belong together: by the column that says so, or by a task's own targets."""
        if self.judge.group is not None:
            return group_codes(self._groups)
        return targets if self.task.paired else None

    def settle(self, lost_share: float) -> None:
        """Raise what stands in the way of judging these rows; all of it together.

        Args:
            lost_share: Share of rows that may be lost.
        """
        fix = "leave these rows out, mend the label, or fit again with training rows that have it"
        problems = [
            Problem(what=what, where="; ".join(places[:_PLACES]), got=f"{len(places)} such rows", fix=fix)
            for what, places in list(self._unknown.items())[:_SHOWN]
        ]
        problems += self._overlap()
        lost = self.read - self.used - (0 if self._keeps else self.overlapping)
        if not problems and (not self.used or lost > lost_share * self.read):
            places = "; ".join(f"{why}: {count}" for why, count in self.ledger.counts.items()) or "no rows"
            where = "; ".join(place for first in self.ledger.examples.values() for place in first) or self.rows.name
            more = ", or raise the budget with --set data.lost_share=SHARE" if self.used else ""
            problems.append(
                Problem(
                    what=f"{lost or self.read:,} of {self.read:,} rows cannot be judged" if self.read else "there are no rows",
                    where=where,
                    got=places,
                    expected=f"at most {lost_share:.0%} (data.lost_share)" if self.used else "at least one labelled row",
                    fix="mend the rows" + more,
                )
            )
        if problems:
            raise DataError(problems)
        if self.inputs and not self._learnt:
            told = (
                "the artifact does not keep which rows it learnt from: whether some of these are among them was not looked at"
            )
            self.notes.append(told)

    @property
    def _refuses(self) -> bool:
        return self.judge.overlap == "refuse"

    @property
    def _keeps(self) -> bool:
        return self.judge.overlap == "keep"

    @property
    def _refused(self) -> bool:
        return bool(self._unknown or (self._refuses and self.overlapping))

    def _usable(self, chunk: Chunk, value: Any, raws: Mapping[tuple[str, ...], list[Any]], row: int) -> bool:
        place = _place(self.rows.name, chunk, row)
        if row in chunk.bad:
            self.ledger.add("rows that cannot be read", where=place)
        elif value is None:
            self.ledger.add("rows without a label", where=place)
        elif any(predictor.modality.problem(raws[columns][row]) for columns, predictor in self.inputs.items()):
            self.ledger.add("rows without an input", where=place)
        elif problem := self.task.target_problem(value):
            self._unknown.setdefault(problem, []).append(place)
        else:
            for name in self.truths.columns if self.truths.together else ():
                if value[name] is None:
                    self.ledger.add(lacking_reason(name), where=place)
            return True
        return False

    def _unseen(self, chunk: Chunk, raws: Mapping[tuple[str, ...], list[Any]], good: list[int]) -> list[int]:
        """Return the rows that are judged: those that nobody learnt from, or all of them where that was asked for."""
        seen = np.zeros(len(good), dtype=bool)
        for columns, learnt in self._learnt:
            seen |= are_learnt([raws[columns][row] for row in good], learnt)
        for row in np.flatnonzero(seen).tolist():
            place = f"{chunk.source or self.rows.name}, row {chunk.first_row + good[row]}"
            self.overlapping += 1
            self._learnt_places += [place] if len(self._learnt_places) < _PLACES else []
            if not self._refuses:
                self.ledger.add(LEARNT + (", judged all the same" if self._keeps else ", left out"), where=place)
        return good if self._keeps else [row for row, known in zip(good, seen.tolist(), strict=True) if not known]

    def _overlap(self) -> list[Problem]:
        if not self.overlapping or not self._refuses:
            return []
        more = f" and {self.overlapping - _PLACES:,} more" if self.overlapping > _PLACES else ""
        return [
            Problem(
                what="the data hold rows that the artifact learnt from, so that it would be judged on what it knows",
                where="; ".join(self._learnt_places) + more,
                got=f"{self.overlapping:,} of {self.read:,} rows",
                expected="rows that it has not seen",
                fix="judge on other rows; or judge the rest of these with --set judge.overlap=leave-out, all with =keep",
            )
        ]


__all__ = ["LEARNT", "LabelledRows"]


def _place(name: str, chunk: Chunk, row: int) -> str:
    return f"{chunk.source or name}, row {chunk.first_row + row}"
