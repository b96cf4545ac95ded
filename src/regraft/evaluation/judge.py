"""How good are these probabilities: every metric with its interval, each class, the confusion matrix.

Shapes: N rows, C classes, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regraft.errors import OptionsError
from regraft.evaluation import METRICS
from regraft.evaluation.intervals import interval_of_counts, measure_by_rows, mover, percentile, resample_counts, wilson
from regraft.evaluation.measure import CountMeasure, Counts, Measure, count, decide
from regraft.evaluation.metrics import f1
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.rows import checked
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
    """What some rows say about some probabilities.

    Args:
        n: Rows judged.
        metrics: Registered name -> the number with its interval; NaN where it is undefined.
        per_class: One entry a class, in label order.
        confusion: What was taken for what.
        confidence: Of every interval.
        notes: What a reader must know.
    """

    n: int
    metrics: Mapping[str, Metric]
    per_class: tuple[ClassRow, ...]
    confusion: Confusion
    confidence: float = 0.95
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the judgement as one JSON object; metric names in snake_case, None where a number is undefined."""
        return {
            "n": self.n,
            "confidence": self.confidence,
            "metrics": metrics_json(self.metrics),
            "per_class": [row.to_json() for row in self.per_class],
            "confusion": self.confusion.to_json(),
            "notes": list(self.notes),
        }


def judge(
    names: Sequence[str],
    targets_N: Array,
    probabilities_NC: FloatArray,
    labels: Sequence[Label],
    *,
    options: JudgeOptions | None = None,
    seed: int = 0,
) -> Judgement:
    """Judge probabilities on the rows whose truth is known.

    Args:
        names: Registered names of the metrics, the most important first.
        targets_N: Class index of each row, 0 to C - 1.
        probabilities_NC: Probability of every class for each row.
        labels: Names of the classes, C of them.
        options: Resamples and confidence.
        seed: Seeds the resamples; the same seed gives the same intervals.

    Raises:
        DataError: There are no rows, or arrays do not fit each other.
        OptionsError: A metric is not registered.

    Example:
        >>> judgement = judge(["accuracy"], np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]), ["ham", "spam"])
        >>> print(judgement.metrics["accuracy"])
        1.000 [0.342, 1.000]
    """
    options = options or JudgeOptions()
    targets_N, probabilities_NC = checked(targets_N, probabilities_NC)
    classes = probabilities_NC.shape[1]
    if len(labels) != classes:
        raise ValueError(f"{len(labels)} labels do not name {classes} classes")
    measures = _measures(names)
    rng = np.random.default_rng(seed)
    predicted_N = decide(probabilities_NC)
    observed = count(targets_N, predicted_N, classes)
    resampled = resample_counts(targets_N, predicted_N, classes, options.resamples, rng)
    by_rows = {name: measure for name, measure in measures.items() if not isinstance(measure, CountMeasure)}
    resamples, confidence = options.resamples, options.confidence
    found = measure_by_rows(by_rows, targets_N, probabilities_NC, resamples=resamples, confidence=confidence, rng=rng)
    metrics, notes = {}, []
    for name, measure in measures.items():
        if isinstance(measure, CountMeasure):
            ends = interval_of_counts(measure, observed, resampled, confidence)
            found[name] = Metric(float(measure.of_counts(observed)[0]), *ends, len(targets_N))
        metrics[name] = found[name]
        notes += _notes(name, metrics[name], measure.note(targets_N, labels))
    return Judgement(
        n=len(targets_N),
        metrics=metrics,
        per_class=_per_class(labels, observed, resampled, options.confidence),
        confusion=_confusion(labels, targets_N, predicted_N),
        confidence=options.confidence,
        notes=tuple(notes),
    )


def _measures(names: Sequence[str]) -> dict[str, Measure]:
    problems = [METRICS.unknown(name) for name in names if name not in METRICS]
    if problems:
        raise OptionsError(problems)
    return {METRICS.canonical(name): METRICS.get(name)() for name in names}


def _notes(name: str, metric: Metric, note: str) -> list[str]:
    if note:
        return [note]
    if math.isnan(metric.value):
        return [f"{json_name(name)} is undefined on these rows"]
    return [f"{json_name(name)} has no interval: {metric.n} row shows no spread"] if math.isnan(metric.low) else []


def _per_class(labels: Sequence[Label], observed: Counts, resampled: Counts, confidence: float) -> tuple[ClassRow, ...]:
    right_C, truth_C, predicted_C = (table[0] for table in observed)
    f1_RC = f1(resampled)
    rows = []
    for index, label in enumerate(labels):
        right, truth, predicted = int(right_C[index]), int(truth_C[index]), int(predicted_C[index])
        row = ClassRow(
            label=label,
            precision=_share(right, predicted, confidence),
            recall=_share(right, truth, confidence),
            f1=_f1_of_class(right, truth, predicted, percentile(f1_RC[:, index], confidence), confidence),
            support=truth,
        )
        rows.append(row)
    return tuple(rows)


def _share(right: int, rows: int, confidence: float) -> Metric:
    if not rows:
        return Metric(math.nan, math.nan, math.nan, 0)
    return Metric(right / rows, *wilson(right, rows, confidence), rows)


def _f1_of_class(right: int, truth: int, predicted: int, ends: tuple[float, float], confidence: float) -> Metric:
    """Return F1 with the wider of the bootstrap interval and Wilson's, over the rows that have the class or were given it."""
    touched = truth + predicted - right
    if not touched:
        return Metric(math.nan, math.nan, math.nan, 0)
    low, high = mover(np.array([right]), np.array([(truth + predicted) / 2]), confidence)
    return Metric(2 * right / (truth + predicted), min(low, ends[0]), max(high, ends[1]), touched)


def _confusion(labels: Sequence[Label], targets_N: Array, predicted_N: Array) -> Confusion:
    cells_K, rows_K = np.unique(targets_N * np.int64(len(labels)) + predicted_N, return_counts=True)
    cells = {(int(cell) // len(labels), int(cell) % len(labels)): int(rows) for cell, rows in zip(cells_K, rows_K, strict=True)}
    return Confusion(tuple(labels), cells)


def json_name(name: str) -> str:
    """Return a metric's name as JSON and scripts spell it: "macro-f1" becomes "macro_f1"."""
    return name.replace("-", "_")


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
    return {name.replace("_", "-"): metric_from_json(metric) for name, metric in values.items()}
