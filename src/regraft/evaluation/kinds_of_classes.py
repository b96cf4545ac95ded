"""Answers that are classes: one of several without an order, or one rank of several in their order.

Shapes: N rows, C classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from regraft.errors import Problem
from regraft.evaluation.answer_kind import AnswerKind
from regraft.evaluation.clusters import group_sums
from regraft.evaluation.compare import Comparison, compare_right
from regraft.evaluation.intervals import (
    effect_of,
    influence_of_counts,
    interval_of_counts,
    measure_by_rows,
    resample_counts,
    resample_groups,
    resample_weights,
)
from regraft.evaluation.judge import Judgement, confusion, notes_of, per_class
from regraft.evaluation.measure import CountMeasure, Counts, Tally, count, decide
from regraft.evaluation.metrics import Brier, LogLoss
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.paired import ACCURACY, Quantity, compare_sums, mean_of_rows
from regraft.evaluation.reliability import Bins, Honesty, brier_parts, of_probabilities
from regraft.evaluation.rows import checked
from regraft.options import JSON
from regraft.tasks.decisions import decide_rank
from regraft.types import Array, FloatArray, Metric


class Classes(AnswerKind):
    """One class of several: targets are indices (N,), outputs the probability of every class (N, C)."""

    name: ClassVar[str] = "classes"
    constant_name: ClassVar[str] = "majority"
    compared_by: ClassVar[str] = "accuracy"

    def decide(self, outputs_NC: FloatArray) -> Array:
        """Return the class that each row is given (N,)."""
        return decide(outputs_NC)

    def costs(self, targets_N: Array, outputs_NC: FloatArray) -> FloatArray:
        """Return -log of the probability given to the true class (N,)."""
        return LogLoss().losses(targets_N, outputs_NC)

    def scored(self, targets_N: Array, outputs_NC: FloatArray) -> tuple[Quantity, FloatArray]:
        """Return which rows are right; see `AnswerKind.scored`."""
        return Quantity("accuracy", True, mean_of_rows), (self.decide(outputs_NC) == targets_N).astype(np.float64)[:, None]

    def members(self, targets_N: Array) -> dict[str, Array]:
        """Return the rows of each class that has any."""
        return {str(self.columns[place]): targets_N == place for place in np.unique(targets_N).tolist()}

    def decided_for(self, outputs_NC: FloatArray, column: int) -> Array:
        """Return whether each row is given a class (N,)."""
        given_N: Array = self.decide(outputs_NC) == column
        return given_N

    def checked(self, targets_N: Array, outputs_NC: FloatArray, who: str = "the model") -> tuple[Array, FloatArray]:
        """Return targets as int64 and probabilities as float64; see `AnswerKind.checked`."""
        return checked(targets_N, outputs_NC, who)

    @property
    def tally(self) -> Tally:
        """Counts the decisions of this kind."""

        def tally(targets_N: Array, outputs_NC: FloatArray, weights_NR: Array | None = None) -> Counts:
            return count(targets_N, self.decide(outputs_NC), outputs_NC.shape[1], weights_NR)

        return tally

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
        """Return every metric with its interval, each class and the confusion matrix; see `AnswerKind.judge`."""
        measures = self.measures(names)
        rng = np.random.default_rng(seed)
        predicted_N, classes = self.decide(outputs_NC), outputs_NC.shape[1]
        observed = count(targets_N, predicted_N, classes)
        effect = effect_of(predicted_N == targets_N, groups_N)
        resampled = (
            resample_counts(targets_N, predicted_N, classes, options.resamples, rng)
            if groups_N is None
            else resample_groups(
                targets_N, predicted_N, classes, resample_weights(len(targets_N), options.resamples, rng, groups_N)
            )
        )
        by_rows = {name: measure for name, measure in measures.items() if not isinstance(measure, CountMeasure)}
        found = measure_by_rows(by_rows, targets_N, outputs_NC, options=options, rng=rng, groups_N=groups_N)
        metrics, notes = {}, []
        for name, measure in measures.items():
            if isinstance(measure, CountMeasure):
                pulls_N = influence_of_counts(measure, targets_N, predicted_N, classes)
                pulls_U = None if pulls_N is None else group_sums(pulls_N, groups_N)
                ends = interval_of_counts(measure, observed, resampled, options.confidence, pulls_U, effect)
                found[name] = Metric(float(measure.of_counts(observed)[0]), *ends, len(targets_N))
            metrics[name] = found[name]
            notes += notes_of(name, metrics[name], measure.note(targets_N, self.columns))
        return Judgement(
            n=len(targets_N),
            metrics=metrics,
            per_class=per_class(self.columns, observed, resampled, options.confidence, effect),
            confusion=confusion(self.columns, targets_N, predicted_N),
            confidence=options.confidence,
            notes=tuple(notes),
        )

    def honesty(self, targets_N: Array, outputs_NC: FloatArray, *, confidence: float = 0.95) -> Honesty:
        """Return how often the answer is right where it is given with some probability; see `AnswerKind.honesty`."""
        given_N, half = self.decide(outputs_NC), 0.5 if outputs_NC.shape[1] == 2 else 1.0
        bins = Bins.of(outputs_NC[np.arange(len(given_N)), given_N], given_N == targets_N)
        losses = {"brier": Brier().losses(targets_N, outputs_NC), "log_loss": LogLoss().losses(targets_N, outputs_NC)}
        parts = brier_parts(targets_N[:, None] == np.arange(outputs_NC.shape[1]), outputs_NC)
        return of_probabilities(bins, losses, {name: half * part for name, part in parts.items()}, confidence)

    def decided(self, outputs_NC: FloatArray) -> Array:
        """Return the class that each row is given (N,)."""
        return self.decide(outputs_NC)

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
        """Compare which rows the two have right (McNemar's test); see `AnswerKind.compare`."""
        right_a, right_b = (self.decide(outputs_NC) == targets_N for outputs_NC in outputs)
        if groups_N is None:
            return compare_right(right_a, right_b, names, options=options)
        parts = right_a[:, None].astype(np.float64), right_b[:, None].astype(np.float64)
        return compare_sums(parts, ACCURACY, names, options=options, seed=seed, groups_N=groups_N)

    def goodness(self, targets_N: Array, outputs_NC: FloatArray) -> float:
        """Return how many rows are right."""
        return int((self.decide(outputs_NC) == targets_N).sum())

    def truths(self, targets_N: Array) -> list[JSON]:
        """Return the name of the class of each row."""
        return [self.columns[place] for place in targets_N.tolist()]

    def targets_of(self, truths: Sequence[JSON]) -> Array:
        """Return the classes by their names (N,)."""
        places = {name: place for place, name in enumerate(self.columns)}
        return np.array([places[name] for name in truths], dtype=np.int64)

    def values(self, outputs_NC: FloatArray) -> list[JSON]:
        """Return the name of the class that each row is given."""
        return self.truths(self.decide(outputs_NC))

    def confidence(self, outputs_NC: FloatArray) -> FloatArray:
        """Return the probability of the class that each row is given (N,)."""
        found_N: FloatArray = np.take_along_axis(outputs_NC, self.decide(outputs_NC)[:, None], axis=1)[:, 0]
        return found_N

    def wrong(self, targets_N: Array, outputs_NC: FloatArray) -> Array:
        """Return which rows are given another class than theirs (N,)."""
        found_N: Array = self.decide(outputs_NC) != targets_N
        return found_N

    def groups(self, targets_N: Array) -> Array:
        """Return the classes themselves."""
        return targets_N

    def group_names(self, targets_N: Array) -> list[str]:
        """Return the names of the classes."""
        return [str(self.columns[group]) for group in targets_N.tolist()]

    def class_counts(self, targets_N: Array) -> Array:
        """Return how many rows have each class (C,)."""
        return np.bincount(targets_N, minlength=len(self.columns))

    def constant(self, targets_N: Array) -> FloatArray:
        """Return the share of every class (C,)."""
        counts_C = self.class_counts(targets_N)
        shares_C: FloatArray = counts_C / counts_C.sum()
        return shares_C

    def target_problems(self, targets_N: Array, where: str) -> list[Problem]:
        """Return the problem of indices beyond the classes."""
        classes = len(self.columns)
        if not len(targets_N) or (targets_N.min() >= 0 and targets_N.max() < classes):
            return []
        got = f"{targets_N.min()} to {targets_N.max()}"
        return [Problem(what="targets are out of range", where=where, got=got, expected=f"0 to {classes - 1}")]

    def learning_problems(self, targets_N: Array) -> list[Problem]:
        """Return the problem of fewer than two classes."""
        found = len(np.unique(targets_N))
        if found > 1:
            return []
        got, fix = f"{found} class in {len(targets_N)} rows", "give training rows of every class"
        what = "the baselines need training rows of two classes"
        return [Problem(what=what, got=got, expected="at least two classes", fix=fix)]


class Ranks(Classes):
    """One rank of several in their order: as classes, but how far off an answer is counts, and the answer is the median."""

    name: ClassVar[str] = "ranks"
    constant_name: ClassVar[str] = "shares"
    compared_by: ClassVar[str] = "rank-mae"
    ordered: ClassVar[bool] = True

    def decide(self, outputs_NC: FloatArray) -> Array:
        """Return the median rank of each row (N,)."""
        return decide_rank(outputs_NC)

    def scored(self, targets_N: Array, outputs_NC: FloatArray) -> tuple[Quantity, FloatArray]:
        """Return by how many ranks each row is off; see `AnswerKind.scored`."""
        off_N = np.abs(self.decide(outputs_NC) - targets_N).astype(np.float64)
        return Quantity("rank-mae", False, mean_of_rows), off_N[:, None]

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
        """Compare by how many ranks each row is off; see `AnswerKind.compare`."""
        costs = [np.abs(self.decide(outputs_NC) - targets_N).astype(np.float64) for outputs_NC in outputs]
        quantity = Quantity(self.compared_by, False, mean_of_rows)
        return compare_sums(
            (costs[0][:, None], costs[1][:, None]), quantity, names, options=options, seed=seed, groups_N=groups_N
        )

    def goodness(self, targets_N: Array, outputs_NC: FloatArray) -> float:
        """Return the mean distance in ranks, negative."""
        return -float(np.abs(self.decide(outputs_NC) - targets_N).mean())
