"""Judge each target by its own kind, on the rows that have it, and put together what is reported of all of them.

A task of one target is its own only part, so that the same lines judge both.

Shapes: N rows, C columns of what is judged of all targets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from regraft.evaluation import RUNGS
from regraft.evaluation.ablation import ablation
from regraft.evaluation.answer_kind import fitting_names, kind_for
from regraft.evaluation.judge import Judgement
from regraft.evaluation.ladder import Contender, Ladder, LadderRows, Step, build_ladder, climb
from regraft.evaluation.metadata import Metadata
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.report import TargetReport
from regraft.evaluation.rung import Rows
from regraft.evaluation.slicing import slicing_of
from regraft.tasks.task import Part, Task
from regraft.types import Array, FloatArray, Metric


def own_contender(part: Part, contender: Contender, rows: Array) -> Contender:
    """Return a contender with what it gives for one target, in the rows that have it."""
    name = kind_for(part.task).constant_name if contender.constant else contender.name
    return dataclasses.replace(contender, name=name, probabilities_NC=contender.probabilities_NC[rows][:, part.judged])


def own_options(part: Part, options: JudgeOptions) -> JudgeOptions:
    """Return options with those of the named baselines that are for one target; all that are if none of the named is."""
    if not part.name or options.rungs is None:
        return options
    able = fitting_names(RUNGS, part.task.answers)
    kept = tuple(name for name in options.rungs if RUNGS.canonical(name) in able)
    return dataclasses.replace(options, rungs=kept or None)


def ladder_of(
    part: Part,
    before: Mapping[str, Rows],
    train_targets: Array,
    fitted: Contender,
    options: JudgeOptions,
    seed: int,
    *,
    previous: Contender | None = None,
) -> Ladder:
    """Return the ladder of one target: the baselines learn from and are judged on the rows that have it.

    Args:
        part: The target.
        before: Split -> features of the base and targets.
        train_targets: Targets of all training rows.
        fitted: The fitted model with what it gives for the test rows.
        options: Which baselines, resamples and confidence.
        seed: Seeds samples and resamples.
        previous: The model that stood before, if it is held against.
    """
    task = part.task
    own = {}
    for split, held in before.items():
        rows = part.rows(held.targets_N)
        features_ND = held.features_ND if len(rows) == len(held) else held.features_ND[rows]
        own[split] = Rows(features_ND, part.own(held.targets_N, rows), held.widths, held.words)
    ladder_rows = LadderRows(
        train=own["train"],
        valid=own["valid"],
        test=own["test"],
        labels=task.names,
        answers=task.answers,
        train_targets=part.own(train_targets),
    )
    judged = part.rows(before["test"].targets_N)
    contender = own_contender(part, fitted, judged)
    stood = [own_contender(part, previous, judged)] if previous else []
    return build_ladder(ladder_rows, contender, task.metrics, options=own_options(part, options), seed=seed, before=stood)


def judgement_of(part: Part, targets: Array, outputs_NC: FloatArray, options: JudgeOptions, seed: int) -> Judgement:
    """Return every metric of one target with its interval, on the rows that have it."""
    rows, kind = part.rows(targets), kind_for(part.task)
    targets_N, own_NC = kind.checked(part.own(targets, rows), outputs_NC[rows][:, part.judged])
    return kind.judge(part.task.metrics, targets_N, own_NC, options=options, seed=seed)


def ablation_of(
    part: Part, targets: Array, fitted: Contender, without: Sequence[Contender], options: JudgeOptions, seed: int
) -> tuple[Step, ...]:
    """Return what the fitted model is for one target without each part of a row."""
    rows, kind = part.rows(targets), kind_for(part.task)
    own = [own_contender(part, contender, rows) for contender in (fitted, *without)]
    if len(own) == 1:
        return ()
    truth, whole_NC = part.own(targets, rows), own[0].probabilities_NC
    return ablation(whole_NC, own[1:], truth, kind, part.task.metrics, options=options, seed=seed)


def climbed(part: Part, contenders: Sequence[Contender], targets: Array, options: JudgeOptions, seed: int) -> TargetReport:
    """Return what is found of one target where models are held against each other."""
    rows, task = part.rows(targets), part.task
    own = [own_contender(part, contender, rows) for contender in contenders]
    truth = part.own(targets, rows)
    ladder = climb(own, truth, task.names, task.metrics, answers=task.answers, options=options, seed=seed)
    judgement = judgement_of(part, targets, contenders[-1].probabilities_NC, options, seed)
    return TargetReport(judgement=judgement, ladder=ladder)


def reported(
    task: Task,
    targets: Array,
    outputs_NC: FloatArray,
    one: Callable[[Part], TargetReport],
    options: JudgeOptions,
    seed: int,
    *,
    known: Metadata | None = None,
) -> dict[str, Any]:
    """Return the fields of a report: of one target what is found of it; of several what is found of each, and of all.

    Args:
        task: What is predicted.
        targets: Of the judged rows.
        outputs_NC: What the judged model gives for them.
        one: Judges one target.
        options: Resamples and confidence.
        seed: Seeds the resamples.
        known: What groups of rows are made of; none are looked at if not given.
    """

    def whole_of(part: Part) -> TargetReport:
        found = one(part)
        if known is None:
            return found
        slicing, told = slicing_of(part, targets, outputs_NC, known, options, seed)
        judgement = dataclasses.replace(found.judgement, notes=(*found.judgement.notes, *told))
        return dataclasses.replace(found, judgement=judgement, slicing=slicing)

    if not task.several:
        (part,) = task.parts
        found = whole_of(part)
        return {name: getattr(found, name) for name in ("judgement", "ladder", "ablation", "slicing")}
    by_target = {part.name: whole_of(part) for part in task.parts if len(part.rows(targets))}
    kind = kind_for(task)
    targets_N, judged_NC = kind.checked(targets, outputs_NC)
    whole = kind.judge(task.metrics, targets_N, judged_NC, options=options, seed=seed)
    metrics: dict[str, Metric] = dict(whole.metrics)
    for name, report in by_target.items():
        metrics |= {f"{name}.{metric}": number for metric, number in report.judgement.metrics.items()}
    notes = [*whole.notes, *(f"{name}: {note}" for name, report in by_target.items() for note in report.judgement.notes)]
    notes += [f"{part.name}: no row has this target, it is not judged" for part in task.parts if part.name not in by_target]
    judgement = dataclasses.replace(whole, metrics=metrics, notes=tuple(notes))
    return {"judgement": judgement, "targets": by_target}


def constant_contender(task: Task, targets: Array) -> Contender:
    """Return the best answers that are the same for all of these rows."""
    kind = kind_for(task)
    same_NC = np.tile(kind.constant(targets), (len(targets), 1))
    return Contender(name=kind.constant_name, probabilities_NC=same_NC, constant=True, size_bytes=same_NC[:1].nbytes)
