"""How good are these answers: every metric with its interval, and for classes each class and the confusion matrix.

Shapes: N rows, C classes, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regraft.evaluation import ANSWERS
from regraft.evaluation.clusters import confidence_over
from regraft.evaluation.intervals import percentile, share_interval
from regraft.evaluation.measure import Counts
from regraft.evaluation.metrics import f1
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.shares import mover
from regraft.types import Array, FloatArray, Label, Metric

DENSE_CLASSES = 200
"""Up to so many classes the confusion matrix is written whole; beyond, only its cells that hold rows."""


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """How one class fared.

    Args:
        label: Name of the class.
        precision: Of the rows that were given this class, the share that have it; undefined (NaN) if there are none.
        recall: Of the rows that have this class, the share that were given it; undefined (NaN) if there are none.
        f1: 2 TP / (2 TP + FP + FN).
        support: Rows that have this class.
    """

    label: Label
    precision: Metric
    recall: Metric
    f1: Metric
    support: int

    def to_json(self) -> dict[str, Any]:
        """Return the class as one JSON object."""
        parts = {name: metric_json(getattr(self, name)) for name in ("precision", "recall", "f1")}
        return {"label": self.label, **parts, "support": self.support}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ClassRow:
        """Return the class that `to_json` wrote."""
        parts = {name: metric_from_json(values[name]) for name in ("precision", "recall", "f1")}
        return cls(label=values["label"], support=values["support"], **parts)


@dataclass(frozen=True)
class Confusion:
    """Count what was taken for what.

    Args:
        labels: Names of the classes.
        cells: (true class, predicted class) -> rows, only where there are any; in row order.
    """

    labels: tuple[Label, ...]
    cells: Mapping[tuple[int, int], int]

    def matrix(self) -> Array:
        """Return the counts (C, C): rows are the truth, columns the prediction."""
        counts_CC = np.zeros((len(self.labels), len(self.labels)), dtype=np.int64)
        for cell, rows in self.cells.items():
            counts_CC[cell] = rows
        return counts_CC

    def to_json(self) -> dict[str, Any]:
        """Return labels and "counts" (rows = truth), or for very many classes "cells" [truth, predicted, rows]."""
        if len(self.labels) <= DENSE_CLASSES:
            return {"labels": list(self.labels), "counts": self.matrix().tolist()}
        return {"labels": list(self.labels), "cells": [[*cell, rows] for cell, rows in self.cells.items()]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Confusion:
        """Return the confusion matrix that `to_json` wrote."""
        cells = values.get("cells")
        if cells is None:
            table = enumerate(values["counts"])
            cells = [(truth, given, rows) for truth, row in table for given, rows in enumerate(row) if rows]
        return cls(tuple(values["labels"]), {(truth, given): rows for truth, given, rows in cells})


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What some rows say about some answers.

    Args:
        n: Rows judged.
        metrics: Registered name -> the number with its interval; NaN where it is undefined.
        per_class: One entry a class, in label order; empty where answers are no classes.
        confusion: What was taken for what; nothing where answers are not one class of several.
        confidence: Of every interval.
        notes: What a reader must know.
    """

    n: int
    metrics: Mapping[str, Metric]
    per_class: tuple[ClassRow, ...] = ()
    confusion: Confusion | None = None
    confidence: float = 0.95
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the judgement as one JSON object; metric names in snake_case, None where a number is undefined."""
        return {
            "n": self.n,
            "confidence": self.confidence,
            "metrics": metrics_json(self.metrics),
            "per_class": [row.to_json() for row in self.per_class],
            "confusion": self.confusion.to_json() if self.confusion else None,
            "notes": list(self.notes),
        }


def judge(
    names: Sequence[str],
    targets_N: Array,
    probabilities_NC: FloatArray,
    labels: Sequence[Label],
    *,
    answers: str = "classes",
    options: JudgeOptions | None = None,
    seed: int = 0,
) -> Judgement:
    """Judge answers on the rows whose truth is known.

    Args:
        names: Registered names of the metrics, the most important first.
        targets_N: What is true; for classes the index of each row, 0 to C - 1.
        probabilities_NC: What `Task.probabilities` returned; for classes the probability of every one for each row.
        labels: Names of the columns: the classes, C of them.
        answers: Registered name of the kind of answers.
        options: Resamples and confidence.
        seed: Seeds the resamples; the same seed gives the same intervals.

    Raises:
        DataError: There are no rows, or arrays do not fit each other.
        OptionsError: A metric is not registered, or is none of such answers.

    Example:
        >>> judgement = judge(["accuracy"], np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]), ["ham", "spam"])
        >>> print(judgement.metrics["accuracy"])
        1.000 [0.342, 1.000]
    """
    kind = ANSWERS.get(answers)(labels)
    targets_N, probabilities_NC = kind.checked(targets_N, probabilities_NC)
    if labels and len(labels) != probabilities_NC.shape[1]:
        raise ValueError(f"{len(labels)} labels do not name {probabilities_NC.shape[1]} classes")
    return kind.judge(names, targets_N, probabilities_NC, options=options or JudgeOptions(), seed=seed)


def notes_of(name: str, metric: Metric, note: str) -> list[str]:
    """Return what a reader must know about a metric: its own note, or that it or its interval is undefined."""
    if note:
        return [note]
    if math.isnan(metric.value):
        return [f"{json_name(name)} is undefined on these rows"]
    return [f"{json_name(name)} has no interval: {metric.n} row shows no spread"] if math.isnan(metric.low) else []


def per_class(
    labels: Sequence[Label],
    observed: Counts,
    resampled: Counts,
    confidence: float,
    effect: tuple[float, int] | None = None,
) -> tuple[ClassRow, ...]:
    """Return precision, recall and F1 of every class from its counts and those of the resamples.

    Args:
        labels: Names of the classes.
        observed: Counts of the rows as they are.
        resampled: Counts of the resamples.
        confidence: Of the intervals.
        effect: What `interval_of_counts` takes where rows are drawn in groups.
    """
    right_C, truth_C, predicted_C = (table[0] for table in observed)
    f1_RC = f1(resampled)
    rows = []
    for index, label in enumerate(labels):
        right, truth, predicted = int(right_C[index]), int(truth_C[index]), int(predicted_C[index])
        row = ClassRow(
            label=label,
            precision=_share(right, predicted, confidence, effect),
            recall=_share(right, truth, confidence, effect),
            f1=_f1_of_class((right, truth, predicted), percentile(f1_RC[:, index], confidence), confidence, effect),
            support=truth,
        )
        rows.append(row)
    return tuple(rows)


def _share(right: int, rows: int, confidence: float, effect: tuple[float, int] | None) -> Metric:
    if not rows:
        return Metric(math.nan, math.nan, math.nan, 0)
    return Metric(right / rows, *share_interval(right, rows, confidence, effect), rows)


def _f1_of_class(
    counts: tuple[int, int, int], ends: tuple[float, float], confidence: float, effect: tuple[float, int] | None
) -> Metric:
    """Return F1 with the wider of the bootstrap interval and Wilson's, over the rows that have the class or were given it."""
    right, truth, predicted = counts
    touched = truth + predicted - right
    if not touched:
        return Metric(math.nan, math.nan, math.nan, 0)
    fewer, sure = (effect[0], confidence_over(effect[1], confidence)) if effect else (1.0, confidence)
    low, high = mover(np.array([right / fewer]), np.array([(truth + predicted) / 2 / fewer]), sure)
    return Metric(2 * right / (truth + predicted), min(low, ends[0]), max(high, ends[1]), touched)


def confusion(labels: Sequence[Label], targets_N: Array, predicted_N: Array) -> Confusion:
    """Return what was taken for what."""
    cells_K, rows_K = np.unique(targets_N * np.int64(len(labels)) + predicted_N, return_counts=True)
    cells = {(int(cell) // len(labels), int(cell) % len(labels)): int(rows) for cell, rows in zip(cells_K, rows_K, strict=True)}
    return Confusion(tuple(labels), cells)


def json_name(name: str) -> str:
    """Return a metric's name as JSON and scripts spell it: "macro-f1" becomes "macro_f1"; a target before it stays as it is."""
    target, sign, metric = name.rpartition(".")
    return target + sign + metric.replace("-", "_")


def metric_name(name: str) -> tuple[str, str]:
    """Return the target, or an empty text, and the registered name of a metric that JSON spells so.

    Example:
        >>> metric_name("macro_f1"), metric_name("due_date.macro_f1")
        (('', 'macro-f1'), ('due_date', 'macro-f1'))
    """
    target, _, metric = name.rpartition(".")
    return target, metric.replace("_", "-")


def metric_json(metric: Metric) -> dict[str, float | int | None]:
    """Return the four fields of a metric; None where a number is undefined, so that strict JSON can hold it."""
    return {name: value if math.isfinite(value) else None for name, value in metric.to_json().items()}


def metric_from_json(values: Mapping[str, float | int | None]) -> Metric:
    """Return the metric that `metric_json` wrote."""
    value, low, high = (math.nan if values[name] is None else float(values[name] or 0.0) for name in ("value", "low", "high"))
    return Metric(value, low, high, int(values["n"] or 0))


def metrics_json(metrics: Mapping[str, Metric]) -> dict[str, dict[str, float | int | None]]:
    """Return metrics by their JSON names."""
    return {json_name(name): metric_json(metric) for name, metric in metrics.items()}


def metrics_from_json(values: Mapping[str, Any]) -> dict[str, Metric]:
    """Return the metrics that `metrics_json` wrote, by their registered names."""
    return {".".join(filter(None, metric_name(name))): metric_from_json(metric) for name, metric in values.items()}
