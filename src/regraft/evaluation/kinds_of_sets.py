"""Answers that are sets of labels: any number of them a row, also none.

Shapes: N rows, L labels, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from regraft.errors import DataError, Problem
from regraft.evaluation.answer_kind import AnswerKind
from regraft.evaluation.compare import Comparison
from regraft.evaluation.intervals import effect_of, resample_weights
from regraft.evaluation.judge import Judgement, per_class
from regraft.evaluation.label_sets import BinaryLogLoss, count_sets
from regraft.evaluation.measure import Counts, Tally
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.paired import Quantity, compare_sums
from regraft.evaluation.reliability import Bins, Honesty, brier_parts, of_probabilities
from regraft.evaluation.rows import broken_rows, size_problems
from regraft.options import JSON
from regraft.tasks.decisions import decide_sets
from regraft.types import Array, FloatArray


class LabelSets(AnswerKind):
    """Any labels of several: targets 0 or 1 (N, L), outputs the probability of every label (N, L), each by itself."""

    name: ClassVar[str] = "label-sets"
    constant_name: ClassVar[str] = "label-shares"
    compared_by: ClassVar[str] = "micro-f1"

    def costs(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return the mean over labels of -log of the probability given to what is true (N,)."""
        return BinaryLogLoss().losses(targets_N, outputs_NC)

    def scored(self, targets_N: Array, outputs_NC: FloatArray) -> tuple[Quantity, FloatArray]:
        """Return what each row adds to the pooled F1; see `AnswerKind.scored`."""
        given_NL = decide_sets(outputs_NC)
        right_N, all_N = (given_NL & targets_N).sum(axis=1), given_NL.sum(axis=1) + targets_N.sum(axis=1)
        return Quantity("micro-f1", True, _f1_of_sums), np.stack([2 * right_N, all_N], axis=1).astype(np.float64)

    def confidence(self, outputs_NC: FloatArray) -> FloatArray:
        """Return the mean over labels of the probability of what each row is given (N,)."""
        sure_N: FloatArray = np.maximum(outputs_NC, 1.0 - outputs_NC).mean(axis=1)
        return sure_N

    def members(self, targets_N: Array) -> dict[str, Array]:
        """Return the rows that have each label that any row has; a row may be in several."""
        return {str(label): targets_N[:, place] > 0 for place, label in enumerate(self.columns) if targets_N[:, place].any()}

    def decided_for(self, outputs_NC: FloatArray, column: int) -> Array:
        """Return whether each row is given a label (N,)."""
        given_N: Array = decide_sets(outputs_NC)[:, column] > 0
        return given_N

    def checked(self, targets_N: Array, outputs_NC: FloatArray, who: str = "the model") -> tuple[Array, FloatArray]:
        """Return targets as int64 and probabilities as float64; see `AnswerKind.checked`."""
        targets_NL, outputs_NL = np.asarray(targets_N), np.asarray(outputs_NC)
        labels = len(self.columns)
        problems = size_problems(targets_NL, outputs_NL, who, (labels,), (labels,))
        if not problems:
            outputs_NL = outputs_NL.astype(np.float64, copy=False)
            whose = f"the probabilities of {who}"
            problems = [*self.target_problems(targets_NL, "the judged rows"), *broken_rows(outputs_NL, whose)]
        if not problems and not ((outputs_NL >= 0) & (outputs_NL <= 1)).all():
            got = f"{outputs_NL.min():.4g} to {outputs_NL.max():.4g}"
            fix = "give what `Task.probabilities` returns, not logits"
            what = f"the outputs of {who} are not probabilities"
            problems = [Problem(what=what, got=got, expected="numbers from 0 to 1", fix=fix)]
        if problems:
            raise DataError(problems)
        return targets_NL.astype(np.int64, copy=False), outputs_NL

    @property
    def tally(self) -> Tally:
        """Counts, for every label, the rows that have it, were given it, and both."""
        return count_sets

    def judge(
        self,
        names: Sequence[str],
        targets_N: Array,
        outputs_NC: FloatArray,
        *,
        options: JudgeOptions,
        seed: int = 0,
        groups_N: Array | None = None,
    ) -> Judgement:
        """Return every metric with its interval, and each label; see `AnswerKind.judge`."""
        judged = super().judge(names, targets_N, outputs_NC, options=options, seed=seed, groups_N=groups_N)
        observed = count_sets(targets_N, outputs_NC, None)
        rng = np.random.default_rng(seed)
        resampled = _resampled(targets_N, outputs_NC, resample_weights(len(targets_N), options.resamples, rng, groups_N))
        effect = effect_of((decide_sets(outputs_NC) == targets_N).all(axis=1), groups_N)
        rows = per_class(self.columns, observed, resampled, options.confidence, effect)
        return Judgement(n=judged.n, metrics=judged.metrics, per_class=rows, confidence=judged.confidence, notes=judged.notes)

    def honesty(self, targets_N: Array, outputs_NC: FloatArray, *, confidence: float = 0.95) -> Honesty:
        """Return how often labels are there that have some probability, all labels together; see `AnswerKind.honesty`."""
        bins = Bins.of(outputs_NC.ravel(), targets_N.ravel() > 0)
        brier_N = np.square(outputs_NC - targets_N).mean(axis=1)
        parts = brier_parts(targets_N, outputs_NC)
        losses = {"brier": brier_N, "log_loss": BinaryLogLoss().losses(targets_N, outputs_NC)}
        return of_probabilities(bins, losses, {name: part / targets_N.shape[1] for name, part in parts.items()}, confidence)

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
        """Compare the pooled F1; see `AnswerKind.compare`."""
        given = [decide_sets(outputs_NC) for outputs_NC in outputs]
        parts = [
            np.stack([2 * (one & targets_N).sum(axis=1), one.sum(axis=1) + targets_N.sum(axis=1)], axis=1) for one in given
        ]
        wrong = [(one != targets_N).sum(axis=1) for one in given]
        quantity = Quantity(self.compared_by, True, _f1_of_sums)
        both = parts[0].astype(np.float64), parts[1].astype(np.float64)
        return compare_sums(both, quantity, names, costs=(wrong[0], wrong[1]), options=options, seed=seed, groups_N=groups_N)

    def goodness(self, targets_N: Array, outputs_NC: FloatArray) -> float:
        """Return the pooled F1."""
        counts = count_sets(targets_N, outputs_NC, None)
        sums = np.array([[2 * counts.right_RC.sum(), counts.truth_RC.sum() + counts.predicted_RC.sum()]], dtype=np.float64)
        return float(_f1_of_sums(sums, len(targets_N))[0])

    def truths(self, targets_N: Array) -> list[JSON]:
        """Return the names of the labels of each row."""
        return [[self.columns[place] for place in np.flatnonzero(row_L).tolist()] for row_L in targets_N]

    def targets_of(self, truths: Sequence[JSON]) -> Array:
        """Return 1 for every label that a row has (N, L)."""
        there = [set(names) for names in truths]
        found_NL: Array = np.array([[name in row for name in self.columns] for row in there], dtype=np.int64)
        return found_NL.reshape(len(there), len(self.columns))

    def values(self, outputs_NC: FloatArray) -> list[JSON]:
        """Return the names of the labels that each row is given."""
        return self.truths(decide_sets(outputs_NC))

    def wrong(self, targets_N: Array, outputs_NC: FloatArray) -> Array:
        """Return which rows are not given exactly their labels (N,)."""
        found_N: Array = (decide_sets(outputs_NC) != targets_N).any(axis=1)
        return found_N

    def groups(self, targets_N: Array) -> Array:
        """Return for each row its label with the fewest rows, so that rare labels are drawn too; L for a row without labels."""
        labels = targets_N.shape[1]
        rarity_L = np.argsort(np.argsort(targets_N.sum(axis=0), kind="stable"), kind="stable")
        places_NL = np.where(targets_N > 0, rarity_L, labels)
        rarest_N = places_NL.argmin(axis=1) if labels else np.zeros(len(targets_N), dtype=np.int64)
        groups_N: Array = np.where(targets_N.any(axis=1), rarest_N, labels)
        return groups_N

    def class_counts(self, targets_N: Array) -> Array:
        """Return how many rows have each label (L,)."""
        counts_L: Array = targets_N.sum(axis=0).astype(np.int64)
        return counts_L

    def constant(self, targets_N: Array) -> FloatArray:
        """Return the share of rows that have each label (L,)."""
        shares_L: FloatArray = targets_N.mean(axis=0, dtype=np.float64)
        return shares_L

    def target_problems(self, targets_N: Array, where: str) -> list[Problem]:
        """Return the problem of targets other than 0 and 1."""
        if ((targets_N == 0) | (targets_N == 1)).all():
            return []
        got, expected = f"{targets_N.min()} to {targets_N.max()}", "0 or 1 for every label"
        fix = "give what `Task.targets` returns"
        return [Problem(what="targets are out of range", where=where, got=got, expected=expected, fix=fix)]

    def learning_problems(self, targets_N: Array) -> list[Problem]:
        """Return the problem of rows that all have the same labels."""
        if len(targets_N) and (targets_N != targets_N[0]).any():
            return []
        got, fix = f"the same labels in {len(targets_N)} rows", "give training rows with other labels"
        return [Problem(what="the baselines need training rows that differ in their labels", got=got, fix=fix)]


def _f1_of_sums(sums_RK: FloatArray, rows: int) -> FloatArray:
    """Return F1 from twice the right and the sum of true and given labels; 1 where nothing is there and nothing given."""
    ratios_R: FloatArray = np.where(sums_RK[:, 1] > 0.5, sums_RK[:, 0] / np.maximum(sums_RK[:, 1], 0.5), 1.0)
    return ratios_R


def _resampled(targets_NL: Array, outputs_NL: FloatArray, weights: Iterator[FloatArray]) -> Counts:
    """Return what is counted on bootstrap samples of the rows, R in all."""
    chunks = [count_sets(targets_NL, outputs_NL, weights_NR) for weights_NR in weights]
    return Counts(*(np.concatenate(tables) for tables in zip(*chunks, strict=True)))
