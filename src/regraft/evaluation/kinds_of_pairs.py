"""Answers that are vectors of two parts of a row in one space: judged by which of all rows' parts are near each other.

Shapes: N rows, C = 2 W numbers of both vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from regraft.errors import DataError, Problem
from regraft.evaluation.answer_kind import AnswerKind
from regraft.evaluation.compare import Comparison
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.paired import Quantity, compare_sums, mean_of_rows
from regraft.evaluation.pairs import RecallAt10
from regraft.evaluation.rows import broken_rows
from regraft.options import JSON
from regraft.types import Array, FloatArray

_FEWEST = 2


class Pairs(AnswerKind):
    """Two vectors a row: targets (N,) say what a row is of, outputs (N, 2 W) hold both vectors; columns name the parts."""

    name: ClassVar[str] = "pairs"
    constant_name: ClassVar[str] = "chance"
    ordered: ClassVar[bool] = True
    compared_by: ClassVar[str] = "recall-at-10"

    def checked(self, targets_N: Array, outputs_NC: FloatArray, who: str = "the model") -> tuple[Array, FloatArray]:
        """Return targets as int64 and vectors as float64; see `AnswerKind.checked`."""
        targets_N, outputs_NC = np.asarray(targets_N), np.asarray(outputs_NC)
        what, fix = f"{who} cannot be judged on these arrays", "judge rows and answers of the same task"
        sound = targets_N.ndim == 1 and outputs_NC.ndim == _FEWEST and not outputs_NC.shape[1] % _FEWEST and outputs_NC.shape[1]
        if not sound or len(targets_N) != len(outputs_NC):
            got = f"targets of shape {targets_N.shape}, vectors of shape {outputs_NC.shape}"
            raise DataError(Problem(what=what, got=got, expected="targets (N,), two vectors a row (N, 2 W)", fix=fix))
        outputs_NC = outputs_NC.astype(np.float64, copy=False)
        problems = [*self.learning_problems(targets_N), *broken_rows(outputs_NC, f"the vectors of {who}")]
        problems = problems or self._lacking(outputs_NC, who)
        if problems:
            raise DataError(problems)
        return targets_N.astype(np.int64, copy=False), outputs_NC

    def _lacking(self, outputs_NC: FloatArray, who: str) -> list[Problem]:
        """Return the problem of rows without one of the parts, whose vector is all zeros."""
        problems = []
        for place, part_NW in enumerate(np.split(outputs_NC, _FEWEST, axis=1)):
            rows = np.flatnonzero(~part_NW.any(axis=1))
            if len(rows):
                name = f"'{self.columns[place]}'" if self.columns else ("first", "second")[place]
                places = ", ".join(str(row) for row in rows[:3].tolist())
                problems.append(
                    Problem(
                        what=f"{who} has no vector of the part {name} for some of the judged rows",
                        where=f"row {places} (counted from 0)",
                        got=f"{len(rows):,} of {len(part_NW):,} rows",
                        expected="both parts in every row that is judged",
                        fix="leave out rows that lack a part",
                    )
                )
        return problems

    def compare(
        self,
        targets_N: Array,
        outputs: tuple[FloatArray, FloatArray],
        names: tuple[str, str],
        *,
        options: JudgeOptions,
        seed: int = 0,
        groups_N: Array | None = None,
    ) -> Comparison:
        """Compare the recall at 10, asked both ways; see `AnswerKind.compare`."""
        a_N, b_N = (self.costs(targets_N, outputs_NC) for outputs_NC in outputs)
        quantity = Quantity(self.compared_by, True, mean_of_rows)
        found = (1.0 - a_N[:, None], 1.0 - b_N[:, None])
        return compare_sums(found, quantity, names, costs=(a_N, b_N), options=options, seed=seed, groups_N=groups_N)

    def costs(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return for each row which share of both questions does not find it among the first ten."""
        missed_N: FloatArray = 1.0 - RecallAt10().losses(targets_N, outputs_NC)
        return missed_N

    def scored(self, targets_N: Array, outputs_NC: FloatArray) -> tuple[Quantity, FloatArray]:
        """Return which share of both questions finds each row among the first ten of all; see `AnswerKind.scored`."""
        return Quantity(self.compared_by, True, mean_of_rows), 1.0 - self.costs(targets_N, outputs_NC)[:, None]

    def goodness(self, targets_N: Array, outputs_NC: FloatArray) -> float:
        """Return the recall at 10, asked both ways."""
        return RecallAt10().value(targets_N, outputs_NC)

    def truths(self, targets_N: Array) -> list[JSON]:
        """Return what each row is of, as a number."""
        found: list[JSON] = targets_N.tolist()
        return found

    def targets_of(self, truths: Sequence[JSON]) -> Array:
        """Return what each row is of (N,)."""
        return np.array(truths, dtype=np.int64)

    def groups(self, targets_N: Array) -> Array:
        """Return one group for all rows: there are as many things as there are rows, or nearly."""
        return np.zeros(len(targets_N), dtype=np.int64)

    def constant(self, targets_N: Array) -> FloatArray:
        """Return the same vector for both parts: all things have the same score, which is chance."""
        return np.ones(_FEWEST)

    def target_problems(self, targets_N: Array, where: str) -> list[Problem]:
        """Return nothing: any number can name a thing."""
        return []

    def learning_problems(self, targets_N: Array) -> list[Problem]:
        """Return the problem of rows that are all of one thing, or of none."""
        things = len(np.unique(targets_N))
        if things >= _FEWEST:
            return []
        got, fix = f"{things} in {len(targets_N)} rows", "give rows of other things"
        return [Problem(what="there is nothing to look among: rows of two things are needed", got=got, fix=fix)]
