"""How sure an answer is, told beside it: a set or an interval that holds the truth, and whether it should not be acted upon.

Every door answers through `answered`, so that Python, files, exports and HTTP tell the same.

Shapes: B rows, C columns of what is judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from regraft.calibration.trust import NOTHING, Trust
from regraft.errors import Problem, UsageError
from regraft.options import JSON
from regraft.tasks.task import Part, Task
from regraft.types import FloatArray, Prediction

_REFIT = "fit it again with enough validation rows: regraft fit ... --valid FILE"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked for beside answers; nothing by default. The fields are those of `regraft.verbs.AnswerOptions`.

    Args:
        coverage: Chance with which the set or interval of an answer holds the truth.
        min_confidence: Probability below which an answer is marked as abstained.
        precision: Share of the answers that must be right; the others are marked as abstained.
    """

    coverage: float | None = None
    min_confidence: float | None = None
    precision: float | None = None

    @property
    def abstains(self) -> bool:
        """Whether answers are marked."""
        return self.min_confidence is not None or self.precision is not None


PLAIN = Asked()


def trust_of(task: Task) -> dict[str, JSON]:
    """Return what is known of each target, by its name, as JSON; nothing of those of which nothing is known."""
    return {part.name: part.task.trust.to_json() for part in task.parts if part.task.trust is not NOTHING}


def take_trust(task: Task, known: Mapping[str, JSON]) -> None:
    """Give each target what is known of it.

    Raises:
        UnknownNameError: A calibrator or a score is not registered here.
        KeyError: Something is missing, or of a target that is not there.
        ValueError: A number cannot be.
    """
    parts = {part.name: part for part in task.parts}
    for name, values in known.items():
        parts[name].task.trust = Trust.from_json(values)


def right_or_wrong(task: Task) -> bool:
    """Return whether an answer is one label of several, so that its probability says how likely it is right."""
    return _labels(task) is not None


def problems_of(task: Task, asked: Asked) -> list[Problem]:
    """Return why an artifact cannot tell what is asked for beside its answers; nothing if it can for one target at least."""
    parts = task.parts
    problems = []
    if asked.coverage is not None and all(part.task.trust.conformal is None for part in parts):
        what = "the artifact cannot give sets or intervals that hold the truth with a stated chance"
        got = "no scores of validation rows" if any(_may_cover(part.task) for part in parts) else f"the task '{task.name}'"
        expected = "an artifact for classes, ranks or numbers that was fitted with validation rows"
        problems.append(Problem(what=what, where="coverage", got=got, expected=expected, fix=_REFIT))
    problems += [] if asked.coverage is None else _short_problems(parts, asked.coverage)
    if asked.abstains and not any(right_or_wrong(part.task) for part in parts):
        what = "only answers that are one label of several can be left out by their probability"
        where = "min_confidence" if asked.min_confidence is not None else "precision"
        problems.append(Problem(what=what, where=where, got=f"the task '{task.name}'", fix="leave it out"))
    elif asked.precision is not None:
        problems += _precision_problems(parts, asked.precision)
    return problems


def check(task: Task, asked: Asked) -> None:
    """Refuse what an artifact cannot tell.

    Raises:
        UsageError: It cannot.
    """
    if problems := problems_of(task, asked):
        raise UsageError(problems)


def threshold_of(trust: Trust, asked: Asked) -> float:
    """Return the probability below which answers are marked: the larger of what was said and what the precision takes."""
    said = asked.min_confidence or 0.0
    if asked.precision is None or trust.thresholds is None:
        return said
    found = trust.thresholds.threshold(asked.precision)
    return max(said, np.inf if found is None else found)


def answered(task: Task, output: FloatArray, asked: Asked = PLAIN) -> list[Prediction]:
    """Return the predictions of rows, with what is asked for beside them.

    Args:
        task: What is predicted.
        output: Raw output of the heads (B, ...).
        asked: What is told beside the answers.
    """
    predictions = task.decode(output) if len(output) else []
    if asked == PLAIN or not predictions:
        return predictions
    if not task.several:
        return _told(task, np.asarray(output), predictions, asked)
    for part in task.parts:
        own = _told(part.task, np.asarray(output)[:, part.outputs], [_part_of(one, part) for one in predictions], asked)
        predictions = [
            one if one.error else replace(one, parts={**one.parts, part.name: more})
            for one, more in zip(predictions, own, strict=True)
        ]
    return predictions


def _part_of(prediction: Prediction, part: Part) -> Prediction:
    return prediction.parts.get(part.name, prediction)


def _told(task: Task, output: FloatArray, predictions: list[Prediction], asked: Asked) -> list[Prediction]:
    """Return the predictions of one target with what is asked for; a row without an answer stays without."""
    good = [row for row, one in enumerate(predictions) if not one.error]
    judged_BC = task.probabilities(output[good]) if good else np.empty((0, 0))
    trust, told = task.trust, list(predictions)
    if asked.coverage is not None and trust.conformal is not None and good:
        if trust.conformal.score.gives_sets:
            labels = _labels(task) or ()
            for row, marks in zip(good, trust.conformal.sets(judged_BC, asked.coverage).tolist(), strict=True):
                told[row] = replace(told[row], set=tuple(label for label, inside in zip(labels, marks, strict=True) if inside))
        else:
            for row, (low, high) in zip(good, trust.conformal.intervals(judged_BC, asked.coverage).tolist(), strict=True):
                told[row] = replace(told[row], interval=(low, high))
    if asked.abstains and right_or_wrong(task):
        limit = threshold_of(trust, asked)
        for row in good:
            told[row] = replace(told[row], abstained=bool(confidence(task, told[row]) < limit))
    return told


def confidence(task: Task, prediction: Prediction) -> float:
    """Return the probability of the label that a prediction gives."""
    labels = _labels(task) or ()
    return list(prediction.probabilities.values())[labels.index(prediction.value)]


def _labels(task: Task) -> tuple[object, ...] | None:
    """Return the labels of which an answer is one, in the order of the columns; None where answers are something else."""
    labels = getattr(task, "labels", None)
    return tuple(labels) if isinstance(labels, tuple) and task.one_label else None


def _may_cover(task: Task) -> bool:
    from regraft.calibration import SCORES

    return any(task.answers in SCORES.get(name).answers for name in SCORES)


def _short_problems(parts: tuple[Part, ...], coverage: float) -> list[Problem]:
    """Return the targets whose scores are too few to say anything with so large a chance."""
    problems = []
    for part in parts:
        known = part.task.trust.conformal
        if known is None or len(known.short_of(coverage)) < len(known.ranked):
            continue
        rows = max(one.rows for one in known.ranked)
        what = "there were too few validation rows for such a coverage" + (f" of '{part.name}'" if part.name else "")
        expected = f"at most {rows / (rows + 1):.4g} with {rows:,} rows{' of a class' if known.per_class else ''}"
        problems.append(Problem(what=what, where="coverage", got=f"{coverage:g}", expected=expected, fix=_REFIT))
    return problems


def _precision_problems(parts: tuple[Part, ...], precision: float) -> list[Problem]:
    """Return that no threshold can promise a precision: of all targets that could be left out by their probability."""
    able = [part for part in parts if right_or_wrong(part.task)]
    tables = [part.task.trust.thresholds for part in able if part.task.trust.thresholds is not None]
    if any(table.threshold(precision) is not None for table in tables):
        return []
    known = max((table.rows for table in tables), default=0)
    what = f"no confidence promises that {precision:.4g} of the answers are right"
    got = f"{known:,} validation rows" if known else "no validation rows that tell what confidences are worth"
    fix = "ask for less, or fit with more validation rows: regraft fit ... --valid FILE; min_confidence takes any threshold"
    return [Problem(what=what, where="precision", got=got, fix=fix)]
