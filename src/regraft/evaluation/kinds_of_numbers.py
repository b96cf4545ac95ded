"""Answers that are numbers: one a row, or several quantiles of what it may be.

Shapes: N rows, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from regraft.errors import DataError, Problem
from regraft.evaluation.answer_kind import AnswerKind
from regraft.evaluation.compare import Comparison
from regraft.evaluation.numbers import levels_of, pinball_losses
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.paired import Quantity, compare_sums, mean_of_rows
from regraft.evaluation.reliability import Honesty, mean_interval
from regraft.evaluation.rows import broken_rows, size_problems
from regraft.evaluation.shares import wilson
from regraft.options import JSON
from regraft.types import Array, FloatArray

_TENTHS = np.linspace(0, 1, 11)[1:-1]


class Numbers(AnswerKind):
    """One number a row: targets (N,) and outputs (N, 1), both in the unit of the target."""

    name: ClassVar[str] = "numbers"
    constant_name: ClassVar[str] = "median"
    compared_by: ClassVar[str] = "mae"

    @property
    def width(self) -> int:
        """Numbers a row."""
        return 1

    def costs(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return how far off each row is (N,)."""
        costs_N: FloatArray = np.abs(outputs_NC[:, 0] - targets_N)
        return costs_N

    def scored(self, targets_N: Array, outputs_NC: FloatArray) -> tuple[Quantity, FloatArray]:
        """Return how far off each row is; see `AnswerKind.scored`."""
        return Quantity(self.compared_by, False, mean_of_rows), self.costs(targets_N, outputs_NC)[:, None]

    def checked(self, targets_N: Array, outputs_NC: FloatArray, who: str = "the model") -> tuple[Array, FloatArray]:
        """Return targets and outputs as float64; see `AnswerKind.checked`."""
        targets_N, outputs_NC = np.asarray(targets_N), np.asarray(outputs_NC)
        problems = size_problems(targets_N, outputs_NC, who, (self.width,))
        if not problems:
            targets_N = targets_N.astype(np.float64, copy=False)
            outputs_NC = outputs_NC.astype(np.float64, copy=False)
            problems = [*self.target_problems(targets_N, "the judged rows"), *broken_rows(outputs_NC, f"the answers of {who}")]
        if problems:
            raise DataError(problems)
        return targets_N, outputs_NC

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
        """Compare how far off each row is; see `AnswerKind.compare`."""
        a_N, b_N = (self.costs(targets_N, outputs_NC) for outputs_NC in outputs)
        quantity = Quantity(self.compared_by, False, mean_of_rows)
        return compare_sums((a_N[:, None], b_N[:, None]), quantity, names, options=options, seed=seed, groups_N=groups_N)

    def goodness(self, targets_N: Array, outputs_NC: FloatArray) -> float:
        """Return the mean cost, negative."""
        return -float(self.costs(targets_N, outputs_NC).mean())

    def truths(self, targets_N: Array) -> list[JSON]:
        """Return the number of each row."""
        found: list[JSON] = targets_N.tolist()
        return found

    def targets_of(self, truths: Sequence[JSON]) -> Array:
        """Return the numbers (N,)."""
        return np.array(truths, dtype=np.float64)

    def values(self, outputs_NC: FloatArray) -> list[JSON]:
        """Return the number that each row is given."""
        found: list[JSON] = outputs_NC[:, self.middle].tolist()
        return found

    @property
    def middle(self) -> int:
        """Column of the outputs that is the answer."""
        return 0

    def groups(self, targets_N: Array) -> Array:
        """Return the tenth of the distribution that each target is in."""
        if not len(targets_N):
            return np.empty(0, dtype=np.int64)
        tenths_N: Array = np.searchsorted(np.quantile(targets_N, _TENTHS), targets_N, side="right")
        return tenths_N

    def constant(self, targets_N: Array) -> FloatArray:
        """Return the median (1,), which has the smallest mean absolute error."""
        return np.array([np.median(targets_N)])

    def target_problems(self, targets_N: Array, where: str) -> list[Problem]:
        """Return the problem of targets that are not finite."""
        strange = np.flatnonzero(~np.isfinite(targets_N))
        if not len(strange):
            return []
        place = f"{where}, row {int(strange[0])} (counted from 0)"
        return [Problem(what="a target is not a finite number", where=place, fix="correct the value or leave the row out")]

    def learning_problems(self, targets_N: Array) -> list[Problem]:
        """Return the problem of a constant target."""
        if len(np.unique(targets_N)) > 1:
            return []
        got, fix = f"one value in {len(targets_N)} rows", "give training rows with other values"
        return [Problem(what="the baselines need training rows of two values", got=got, fix=fix)]


class Quantiles(Numbers):
    """Several quantiles a row: targets (N,), outputs (N, Q), both in the unit of the target; columns are named by level."""

    name: ClassVar[str] = "quantiles"
    constant_name: ClassVar[str] = "quantiles-of-all"
    ordered: ClassVar[bool] = True
    compared_by: ClassVar[str] = "pinball"

    @property
    def width(self) -> int:
        """Numbers a row."""
        return len(self.columns)

    @property
    def middle(self) -> int:
        """Column of the median; of the level nearest to it where there is none."""
        return int(np.abs(levels_of(self.columns) - 0.5).argmin())

    def costs(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return the pinball loss of each row (N,)."""
        return pinball_losses(targets_N, outputs_NC, levels_of(self.columns))

    def honesty(self, targets_N: Array, outputs_NC: FloatArray, *, confidence: float = 0.95) -> Honesty:
        """Return which share of the numbers lies at or below the quantile of each level; see `AnswerKind.honesty`."""
        levels_Q, rows = levels_of(self.columns), len(targets_N)
        below_Q = (targets_N[:, None] <= outputs_NC).sum(axis=0)
        losses_N = pinball_losses(targets_N, outputs_NC, levels_Q)
        figures = {"calibration_error": float(np.abs(below_Q / rows - levels_Q).mean()), "pinball": float(losses_N.mean())}
        diagram = []
        for level, below in zip(levels_Q.tolist(), below_Q.tolist(), strict=True):
            low, high = wilson(below, rows, confidence)
            diagram.append({"level": level, "share_below": below / rows, "n": rows, "share_low": low, "share_high": high})
        return Honesty(figures=figures, intervals={"pinball": mean_interval(losses_N, confidence)}, diagram=diagram)

    def constant(self, targets_N: Array) -> FloatArray:
        """Return the quantiles of the targets (Q,)."""
        return np.asarray(np.quantile(targets_N, levels_of(self.columns)))
