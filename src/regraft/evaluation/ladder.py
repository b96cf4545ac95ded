"""The ladder: for classes majority -> nearest centroid -> linear probe -> fitted, on the same test rows.

A fitted model is worth its hours only if it beats what costs seconds. Each rung is tested against the one below it; the verdict
is the fitted model against the strongest rung below it.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from regraft.errors import DataError, Problem
from regraft.evaluation.answer_kind import AnswerKind, kind_of
from regraft.evaluation.clusters import relevant
from regraft.evaluation.compare import Comparison, corrected
from regraft.evaluation.judge import metrics_from_json, metrics_json
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.paired import compare_by, goodness_by
from regraft.evaluation.rung import Rows, Rung, RungRows
from regraft.evaluation.sample import stratified
from regraft.types import Array, FloatArray, Label, Metric


@dataclass(frozen=True, kw_only=True)
class Step:
    """One rung of a ladder, judged.

    Args:
        name: Registered name of the baseline, or what the model is called.
        metrics: Registered name of the metric -> the number with its interval.
        seconds: What learning took, the features not counted; 0 where it was not measured.
        note: How it was learnt.
        against_previous: This rung against the one below it; nothing for the lowest. Of several rungs the p-values and verdicts
            are corrected (Holm), but for the comparison that is the verdict of the whole ladder.
        size_bytes: What it takes to answer: its numbers, and where it reads features those of the network that gives them.
        latency_ms: What one row takes to answer, in the batches in which the judged rows were; the features included.
    """

    name: str
    metrics: Mapping[str, Metric]
    seconds: float = 0.0
    note: str = ""
    against_previous: Comparison | None = None
    size_bytes: int | None = None
    latency_ms: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the rung as one JSON object."""
        return {
            "name": self.name,
            "metrics": metrics_json(self.metrics),
            "seconds": self.seconds,
            "cost": {"seconds": self.seconds, "size_bytes": self.size_bytes, "latency_ms": self.latency_ms},
            "note": self.note,
            "against_previous": self.against_previous.to_json() if self.against_previous else None,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Step:
        """Return the rung that `to_json` wrote."""
        cost = values.get("cost", {})
        return cls(
            name=values["name"],
            metrics=metrics_from_json(values["metrics"]),
            seconds=values["seconds"],
            note=values["note"],
            against_previous=Comparison.from_json(values["against_previous"]) if values["against_previous"] else None,
            size_bytes=cost.get("size_bytes"),
            latency_ms=cost.get("latency_ms"),
        )


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Rungs on the same rows, weakest first, and the verdict on the last.

    Args:
        steps: The rungs.
        verdict: The last rung against the one below it that is best on these rows (for classes by accuracy); the higher rung
            wins a tie.
            Choosing by the test rows favours the rung below, never the last.
    """

    steps: tuple[Step, ...]
    verdict: Comparison


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model on the ladder that is already fitted.

    Args:
        name: What to call it.
        probabilities_NC: What it gives for the judged rows, as `Task.probabilities` returns it: classes in label order.
        seconds: What it took to fit, or to answer where nothing was fitted.
        note: How it was learnt.
        constant: Whether it gives every row the same, and is called as its kind of answers calls that.
        seeds: Where it is several fits that differ only in their seed: the seeds, that of `probabilities_NC` first.
        more: What the fits of the other seeds give.
        size_bytes: What it takes to answer, as `Step` has it; None where it is not known.
        latency_ms: What one row takes, as `Step` has it; None where it was not measured.
    """

    name: str
    probabilities_NC: FloatArray
    seconds: float = 0.0
    note: str = ""
    constant: bool = False
    seeds: tuple[int, ...] = ()
    more: tuple[FloatArray, ...] = ()
    size_bytes: int | None = None
    latency_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class LadderRows:
    """What the rungs learn from and are judged on.

    Args:
        train: Training rows with the features of the base as it was before fitting; all of them, or a sample.
        valid: Validation rows; may be empty (`no_rows`).
        test: The rows to judge.
        labels: Names of the classes, or of whatever the columns of the answers are.
        class_counts_C: Rows of each class among all training rows, where `train` is a sample of them.
        answers: Registered name of the kind of answers.
        train_targets: Targets of all training rows, where `train` is a sample of them.
        groups_N: Which of the judged rows belong together; each by itself if not given.
    """

    train: Rows
    valid: Rows
    test: Rows
    labels: Sequence[Label]
    class_counts_C: Array | None = None
    answers: str = "classes"
    train_targets: Array | None = None
    groups_N: Array | None = None

    @property
    def kind(self) -> AnswerKind:
        """The kind of answers."""
        return kind_of(self.answers, self.labels)


def build_ladder(
    rows: LadderRows,
    fitted: Contender,
    metrics: Sequence[str],
    *,
    options: JudgeOptions | None = None,
    seed: int = 0,
    before: Sequence[Contender] = (),
) -> Ladder:
    """Fit the baselines on frozen features and hold the fitted model against them.

    Args:
        rows: Features and targets. Beyond `options.probe_rows` a seeded, stratified sample of `train` is learnt from.
        fitted: The fitted model with its probabilities for `rows.test`.
        metrics: Registered names of the metrics, the most important first.
        options: Which rungs, how many training rows, resamples and confidence.
        seed: Seeds samples and resamples.
        before: Models between the baselines and the fitted one: what stood before it.

    Raises:
        DataError: Arrays do not fit each other, or the training rows hold one class only.
        OptionsError: A rung or metric is not registered.
    """
    options = options or JudgeOptions()
    rungs = rows.kind.rungs(options.rungs)
    _check_rows(rows)
    learnt, sampled = _learning_rows(rows, options, seed)
    contenders = []
    for name, rung_class in rungs.items():
        if rung_class.lacking(learnt):
            continue
        contenders.append(_answered(name, rung_class(seed), learnt, rows.test, sampled))
    every = [*(_with_features(one, fitted, rungs[one.name]) for one in contenders), *before, fitted]
    kind, groups_N = rows.kind, rows.groups_N
    return climb_kind(every, rows.test.targets_N, kind, metrics, options=options, seed=seed, groups_N=groups_N)


def _answered(name: str, rung: Rung, learnt: RungRows, test: Rows, sampled: str) -> Contender:
    """Let a rung learn and answer the test rows."""
    began = time.perf_counter()
    rung.fit(learnt)
    fitted = time.perf_counter()
    probabilities_NC = rung.probabilities(test.features_ND)
    latency_ms = 1000 * (time.perf_counter() - fitted) / max(1, len(test))
    return Contender(
        name=name,
        probabilities_NC=probabilities_NC,
        seconds=fitted - began,
        note="; ".join(part for part in (rung.note, sampled if rung.uses_features and rung.learns_from_sample else "") if part),
        size_bytes=rung.size_bytes,
        latency_ms=latency_ms,
    )


def _with_features(rung: Contender, fitted: Contender, kind: type[Rung]) -> Contender:
    """Return a rung with the cost of the features that it reads: that of the fitted network, whose backbone gives them."""
    if not kind.uses_features:
        return rung
    size, latency = fitted.size_bytes, fitted.latency_ms
    return replace(
        rung,
        size_bytes=None if size is None or rung.size_bytes is None else size + rung.size_bytes,
        latency_ms=None if latency is None or rung.latency_ms is None else latency + rung.latency_ms,
    )


def climb(
    contenders: Sequence[Contender],
    targets_N: Array,
    labels: Sequence[Label],
    metrics: Sequence[str],
    *,
    answers: str = "classes",
    options: JudgeOptions | None = None,
    seed: int = 0,
) -> Ladder:
    """Judge models on the same rows, each against the one before it, and the last against the strongest before it.

    Args:
        contenders: At least two, in order; for two artifacts first the one that stood before.
        targets_N: What is true; for classes the index of each row, 0 to C - 1.
        labels: Names of the columns: the classes.
        metrics: Registered names of the metrics.
        answers: Registered name of the kind of answers.
        options: Resamples and confidence.
        seed: Seeds the resamples.

    Raises:
        DataError: There are no rows, or arrays do not fit each other.
    """
    return climb_kind(contenders, targets_N, kind_of(answers, labels), metrics, options=options or JudgeOptions(), seed=seed)


def climb_kind(
    contenders: Sequence[Contender],
    targets_N: Array,
    kind: AnswerKind,
    metrics: Sequence[str],
    *,
    options: JudgeOptions,
    seed: int = 0,
    groups_N: Array | None = None,
) -> Ladder:
    """Do what `climb` does for a kind of answers, where rows may belong together.

    Args:
        contenders: At least two, in order.
        targets_N: What is true.
        kind: Kind of the answers.
        metrics: Registered names of the metrics.
        options: Resamples and confidence.
        seed: Seeds the resamples.
        groups_N: Which rows belong together; each by itself if not given.
    """
    if len(contenders) < 2:
        raise ValueError("a ladder has at least two rungs")
    groups_N = relevant(groups_N)
    steps: list[Step] = []
    given: list[FloatArray] = []
    for contender in contenders:
        targets_N, probabilities_NC = kind.checked(targets_N, contender.probabilities_NC, contender.name)
        given.append(probabilities_NC)
        judgement = kind.judge(metrics, targets_N, probabilities_NC, options=options, seed=seed, groups_N=groups_N)
        against = None
        if steps:
            both, names = (given[-2], given[-1]), (steps[-1].name, contender.name)
            against = compare_by(kind, targets_N, both, names, options=options, seed=seed, groups_N=groups_N)
        steps.append(
            Step(
                name=contender.name,
                metrics=judgement.metrics,
                seconds=contender.seconds,
                note=contender.note,
                against_previous=against,
                size_bytes=contender.size_bytes,
                latency_ms=contender.latency_ms,
            )
        )
    below = range(len(steps) - 1)
    strongest = max(below, key=lambda place: (goodness_by(kind, targets_N, given[place], options), place))
    names = (steps[strongest].name, steps[-1].name)
    verdict = steps[-1].against_previous if strongest == len(steps) - 2 else None
    if verdict is None:
        both = given[strongest], given[-1]
        verdict = compare_by(kind, targets_N, both, names, options=options, seed=seed, groups_N=groups_N)
    return Ladder(steps=with_family(steps, options.confidence, verdict), verdict=verdict)


def with_family(steps: Sequence[Step], confidence: float, apart: Comparison | None = None) -> tuple[Step, ...]:
    """Return steps whose comparisons are corrected for being several (Holm 1979).

    Args:
        steps: The steps.
        confidence: A verdict other than "no evidence" needs a corrected p-value under one minus this.
        apart: The one comparison that everything was done for: it is asked by itself, and no part of the family.
    """
    family = [step for step in steps if step.against_previous is not None and step.against_previous is not apart]
    tested = [step.against_previous for step in family if step.against_previous is not None]
    after = dict(zip(map(id, family), corrected(tested, confidence), strict=True))
    return tuple(replace(step, against_previous=after.get(id(step), step.against_previous)) for step in steps)


def _learning_rows(rows: LadderRows, options: JudgeOptions, seed: int) -> tuple[RungRows, str]:
    kind = rows.kind
    every = rows.train.targets_N if rows.train_targets is None else rows.train_targets
    counts_C = rows.class_counts_C if rows.class_counts_C is not None else kind.class_counts(every)
    chosen = stratified(kind.groups(rows.train.targets_N), options.probe_rows, seed)
    train = rows.train if len(chosen) == len(rows.train) else rows.train.take(chosen)
    total = len(every) if rows.class_counts_C is None else int(counts_C.sum())
    note = f"learnt from {len(train):,} of {total:,} training rows" if len(train) < total else ""
    return RungRows(train=train, valid=rows.valid, class_counts_C=counts_C, targets=rows.train_targets, kind=kind), note


def _check_rows(rows: LadderRows) -> None:
    """Raise what is wrong with the rows, all at once."""
    problems = []
    for name, split in (("train", rows.train), ("valid", rows.valid), ("test", rows.test)):
        if split.features_ND.ndim != 2 or len(split.features_ND) != len(split.targets_N):
            got = f"features of shape {split.features_ND.shape}, {len(split.targets_N)} targets"
            problems.append(Problem(what="features and targets do not fit", where=name, got=got, expected="one row a target"))
        elif not np.isfinite(split.features_ND).all():
            broken = int(np.flatnonzero(~np.isfinite(split.features_ND).all(axis=1))[0])
            where = f"{name}, row {broken} (counted from 0)"
            fix = "check the input of this row and the weights of the base"
            problems.append(Problem(what="the base gives features that are not finite numbers", where=where, fix=fix))
        else:
            problems += rows.kind.target_problems(split.targets_N, name)
    problems = problems or rows.kind.learning_problems(rows.train.targets_N)
    if problems:
        raise DataError(problems)


__all__ = ["Contender", "Ladder", "LadderRows", "Rows", "Rung", "Step", "build_ladder", "climb"]
