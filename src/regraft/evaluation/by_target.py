"""Judge each target by its own kind, on the rows that have it, and put together what is reported of all of them.

A task of one target is its own only part, so that the same lines judge both.

Shapes: N rows, C columns of what is judged of all targets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regraft.evaluation import METRICS, RUNGS
from regraft.evaluation.ablation import ablation
from regraft.evaluation.answer_kind import fitting_names, kind_for
from regraft.evaluation.clusters import group_notes, relevant, units
from regraft.evaluation.compare import corrected, least_discordant
from regraft.evaluation.judge import Judgement
from regraft.evaluation.ladder import Contender, Ladder, LadderRows, Step, build_ladder, climb_kind
from regraft.evaluation.metadata import Metadata
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.paired import compared_by
from regraft.evaluation.report import TargetReport
from regraft.evaluation.rung import Rows
from regraft.evaluation.seeds import Seeded, climb_seeds
from regraft.evaluation.slicing import Slicing, slicing_of
from regraft.tasks.task import Part, Task
from regraft.types import Array, FloatArray, Metric

Trusted = Callable[[Part], Mapping[str, Any]]
"""Says how far the answers to a target can be trusted (`regraft.evaluation.trusted`)."""


@dataclass(frozen=True, kw_only=True)
class JudgedRows:
    """The rows that a model is judged on.

    Args:
        targets: What is true, of all targets.
        outputs_NC: What the judged model gives for them.
        groups_N: Which rows belong together, if anything says so.
        known: What groups of rows are made of (`regraft.evaluation.slicing`); none are looked at if not given.
    """

    targets: Array
    outputs_NC: FloatArray
    groups_N: Array | None = None
    known: Metadata | None = None


def _unknown(part: Part) -> Mapping[str, Any]:
    return {}


def own_contender(part: Part, contender: Contender, rows: Array) -> Contender:
    """Return a contender with what it gives for one target, in the rows that have it."""
    name = kind_for(part.task).constant_name if contender.constant else contender.name
    own, *more = (given[rows][:, part.judged] for given in (contender.probabilities_NC, *contender.more))
    return dataclasses.replace(contender, name=name, probabilities_NC=own, more=tuple(more))


def own_options(part: Part, options: JudgeOptions) -> JudgeOptions:
    """Return options with those of the named baselines that are for one target; all that are if none of the named is.

    The metric to compare by is kept where it is for this target.
    """
    if not part.name or (options.rungs is None and options.metric is None):
        return options
    able = fitting_names(RUNGS, part.task.answers)
    kept = tuple(name for name in options.rungs or () if RUNGS.canonical(name) in able)
    metric = options.metric
    if metric is not None and METRICS.canonical(metric) not in fitting_names(METRICS, part.task.answers):
        metric = None
    return dataclasses.replace(options, rungs=kept or None, metric=metric)


def check_metric(task: Task, options: JudgeOptions) -> None:
    """Refuse a metric to compare by that is for none of the targets, before anything is answered.

    Raises:
        OptionsError: It is not registered, is for other answers, or has no better end.
    """
    if options.metric is None:
        return
    kinds = [kind_for(part.task) for part in task.parts]
    able = [kind for kind in kinds if METRICS.canonical(options.metric) in fitting_names(METRICS, kind.name)]
    for kind in able or kinds[:1]:
        compared_by(kind, options)


def own_groups(part: Part, targets: Array, groups_N: Array | None) -> Array | None:
    """Return which of the rows that have a target belong together."""
    return None if groups_N is None else relevant(groups_N[part.rows(targets)])


def ladder_of(
    part: Part,
    before: Mapping[str, Rows],
    train_targets: Array,
    contenders: Sequence[Contender],
    options: JudgeOptions,
    seed: int,
    groups_N: Array | None = None,
) -> Ladder:
    """Return the ladder of one target: the baselines learn from and are judged on the rows that have it.

    Args:
        part: The target.
        before: Split -> features of the base and targets.
        train_targets: Targets of all training rows.
        contenders: What stood before, if it is held against, and last the fitted model, with what they give for the test rows.
        options: Which baselines, resamples and confidence.
        seed: Seeds samples and resamples.
        groups_N: Which test rows belong together.
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
        groups_N=own_groups(part, before["test"].targets_N, groups_N),
    )
    judged = part.rows(before["test"].targets_N)
    *stood, fitted = (own_contender(part, contender, judged) for contender in contenders)
    return build_ladder(ladder_rows, fitted, task.metrics, options=own_options(part, options), seed=seed, before=stood)


def judgement_of(
    part: Part, targets: Array, outputs_NC: FloatArray, options: JudgeOptions, seed: int, groups_N: Array | None = None
) -> Judgement:
    """Return every metric of one target with its interval, on the rows that have it."""
    rows, kind = part.rows(targets), kind_for(part.task)
    targets_N, own_NC = kind.checked(part.own(targets, rows), outputs_NC[rows][:, part.judged])
    own_N = own_groups(part, targets, groups_N)
    judged = kind.judge(part.task.metrics, targets_N, own_NC, options=options, seed=seed, groups_N=own_N)
    return _noted(judged, own_N, options)


def ablation_of(
    part: Part,
    targets: Array,
    contenders: Sequence[Contender],
    options: JudgeOptions,
    seed: int,
    groups_N: Array | None = None,
) -> tuple[Step, ...]:
    """Return what the fitted model is for one target without each part of a row."""
    rows, kind = part.rows(targets), kind_for(part.task)
    own = [own_contender(part, contender, rows) for contender in contenders]
    if len(own) == 1:
        return ()
    own_N, chosen = own_groups(part, targets, groups_N), own_options(part, options)
    truth = part.own(targets, rows)
    return ablation(own, truth, kind, part.task.metrics, options=chosen, seed=seed, groups_N=own_N)


def climbed(
    part: Part,
    contenders: Sequence[Contender],
    targets: Array,
    options: JudgeOptions,
    seed: int,
    groups_N: Array | None = None,
    trust: Trusted = _unknown,
) -> TargetReport:
    """Return what is found of one target where models are held against each other.

    Args:
        part: The target.
        contenders: The judged model last.
        targets: Of all rows.
        options: Resamples and confidence.
        seed: Seeds the resamples.
        groups_N: Which rows belong together, if anything says so.
        trust: Says how far the answers to a target can be trusted.
    """
    rows, task = part.rows(targets), part.task
    own = [own_contender(part, contender, rows) for contender in contenders]
    truth, kind, own_N = part.own(targets, rows), kind_for(task), own_groups(part, targets, groups_N)
    chosen = own_options(part, options)
    if any(contender.more for contender in own):
        seeded = [Seeded.of(contender) for contender in own]
        ladder, judged, studies = climb_seeds(seeded, truth, kind, task.metrics, options=chosen, seed=seed, groups_N=own_N)
        return TargetReport(judgement=_noted(judged, own_N, options), ladder=ladder, seeds=studies)
    ladder = climb_kind(own, truth, kind, task.metrics, options=chosen, seed=seed, groups_N=own_N)
    judgement = judgement_of(part, targets, contenders[-1].probabilities_NC, options, seed, groups_N)
    return TargetReport(judgement=judgement, ladder=ladder, trust=trust(part))


def reported(
    task: Task, rows: JudgedRows, one: Callable[[Part], TargetReport], options: JudgeOptions, seed: int
) -> dict[str, Any]:
    """Return the fields of a report: of one target what is found of it; of several what is found of each, and of all.

    Args:
        task: What is predicted.
        rows: The judged rows.
        one: Judges one target.
        options: Resamples and confidence.
        seed: Seeds the resamples.
    """

    def whole_of(part: Part) -> TargetReport:
        return _with_groups(one(part), part, rows, options, seed)

    if not task.several:
        (part,) = task.parts
        found = whole_of(part)
        names = ("judgement", "ladder", "ablation", "seeds", "trust", "slicing")
        return {name: getattr(found, name) for name in names}
    judged = {part.name: whole_of(part) for part in task.parts if len(part.rows(rows.targets))}
    by_target = _family(judged, options.confidence)
    kind = kind_for(task)
    targets_N, judged_NC = kind.checked(rows.targets, rows.outputs_NC)
    whole = kind.judge(task.metrics, targets_N, judged_NC, options=options, seed=seed, groups_N=relevant(rows.groups_N))
    metrics: dict[str, Metric] = dict(whole.metrics)
    for name, report in by_target.items():
        metrics |= {f"{name}.{metric}": number for metric, number in report.judgement.metrics.items()}
    notes = [*whole.notes, *(f"{name}: {note}" for name, report in by_target.items() for note in report.judgement.notes)]
    notes += [f"{part.name}: no row has this target, it is not judged" for part in task.parts if part.name not in by_target]
    judgement = dataclasses.replace(whole, metrics=metrics, notes=tuple(notes))
    return {"judgement": judgement, "targets": by_target}


def _with_groups(found: TargetReport, part: Part, rows: JudgedRows, options: JudgeOptions, seed: int) -> TargetReport:
    """Return what was found of one target with what is found of groups of its rows."""
    if rows.known is None:
        return found
    slicing, told = slicing_of(part, rows.targets, rows.outputs_NC, rows.known, own_options(part, options), seed)
    if own_groups(part, rows.targets, rows.groups_N) is not None and slicing != Slicing():
        told.append("slices, weak slices and fairness take each row by itself, also where rows belong together")
    judgement = dataclasses.replace(found.judgement, notes=(*found.judgement.notes, *told))
    return dataclasses.replace(found, judgement=judgement, slicing=slicing)


def _family(by_target: dict[str, TargetReport], confidence: float) -> dict[str, TargetReport]:
    """Return reports whose verdicts are corrected for being one a target (Holm 1979)."""
    ladders = {name: report.ladder for name, report in by_target.items() if report.ladder}
    verdicts = corrected([ladder.verdict for ladder in ladders.values()], confidence)
    for (name, ladder), verdict in zip(ladders.items(), verdicts, strict=True):
        steps = tuple(
            dataclasses.replace(step, against_previous=verdict) if step.against_previous is ladder.verdict else step
            for step in ladder.steps
        )
        by_target[name] = dataclasses.replace(by_target[name], ladder=Ladder(steps=steps, verdict=verdict))
    return by_target


def _noted(judged: Judgement, groups_N: Array | None, options: JudgeOptions) -> Judgement:
    """Return a judgement that also says how rows were drawn, and what so few of them cannot show."""
    drawn = group_notes(groups_N, options.group or "thing")
    return dataclasses.replace(judged, notes=(*judged.notes, *drawn, *few_notes(judged.n, groups_N, options.confidence)))


def few_notes(rows: int, groups_N: Array | None, confidence: float) -> list[str]:
    """Return what so few rows cannot show, whatever they hold."""
    least = least_discordant(1 - confidence)
    drawn_from = units(rows, groups_N)
    if drawn_from >= least:
        return []
    what = f"{drawn_from} {'row' if groups_N is None else 'group'}{'' if drawn_from == 1 else 's'}"
    return [f"{what} cannot show that one model is better than another: no paired test finds anything on fewer than {least}"]


def constant_contender(task: Task, targets: Array) -> Contender:
    """Return the best answers that are the same for all of these rows."""
    kind = kind_for(task)
    same_NC = np.tile(kind.constant(targets), (len(targets), 1))
    return Contender(name=kind.constant_name, probabilities_NC=same_NC, constant=True, size_bytes=same_NC[:1].nbytes)
