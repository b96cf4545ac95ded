"""The stage of a fit in which probabilities are made to mean something: on validation rows, which no weight was learnt from.

Every figure that an artifact keeps of them (scores behind sets, what confidences are worth) is computed under calibrators that
were learnt from other rows, as for rows to come.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from regraft.calibration import CALIBRATORS, SCORES
from regraft.calibration.abstain import Thresholds
from regraft.calibration.choosing import Chosen, choose, names_for
from regraft.calibration.options import AUTO, CalibrateOptions
from regraft.calibration.score import Conformal
from regraft.calibration.trust import NOTHING, Trust
from regraft.errors import OptionsError, Problem, did_you_mean
from regraft.evaluation.answer_kind import kind_for
from regraft.options import Pick
from regraft.planning import Plan
from regraft.tasks.sureness import right_or_wrong
from regraft.training.stages import Stages
from regraft.types import Array, FloatArray

if TYPE_CHECKING:
    from regraft.calibration.links import Link
    from regraft.tasks.task import Part, Task
    from regraft.training.frozen import Learner

_FORWARD_ROWS = 32
_WHERE = "judge.calibrate"
_MOST_NUMBERS = 1_000_000
_FEWEST_DRAWN = 1000


def check(task: Task, wanted: CalibrateOptions) -> None:
    """Refuse, before anything is learnt, a calibrator or a score that is for none of the targets.

    Raises:
        OptionsError: It is.
    """
    parts, problems = task.parts, []
    links = [link for part in parts if (link := part.task.link) is not None]
    able = [name for name in CALIBRATORS if any(name in names_for(link) for link in links)]
    if (
        not _automatic(wanted)
        and wanted.method not in able
        and not (wanted.method in CALIBRATORS and not _changes(wanted.method))
    ):
        what = f"there is no calibrator '{wanted.method}' for the task '{task.name}'"
        fix = did_you_mean(wanted.method, [AUTO, *able])
        problems.append(Problem(what=what, where=f"{_WHERE}.method", expected=", ".join([AUTO, *able]) or AUTO, fix=fix))
    if wanted.score.name and not any(part.task.answers in SCORES.get(wanted.score.name).answers for part in parts):
        fitting = [name for name in SCORES if any(part.task.answers in SCORES.get(name).answers for part in parts)]
        what = f"the score '{wanted.score.name}' is not for the answers of the task '{task.name}'"
        fix = f"choose {' or '.join(fitting)}" if fitting else "leave it out"
        problems.append(Problem(what=what, where=f"{_WHERE}.score", got=wanted.score.name, fix=fix))
    if problems:
        raise OptionsError(problems)


def calibrate(learner: Learner, plan: Plan, stages: Stages) -> None:
    """Learn, for each target, what its probabilities are worth; what is learnt is kept by its task.

    Args:
        learner: The fitted network, or the part of it above what was computed once, with its rows.
        plan: Targets and task.
        stages: Told what was chosen.
    """
    rows, wanted = learner.rows["valid"], plan.wanted.judge.calibrate
    if plan.task.paired or not any(part.task.link or _score_for(part.task, wanted) for part in plan.task.parts):
        return
    with stages("calibrate", len(rows)):
        from regraft.models.forward import outputs

        found = outputs(learner.net, rows, _FORWARD_ROWS, stages.progress) if len(rows) else np.empty((0, 0))
        for part in plan.task.parts:
            targets, named = plan.targets["valid"], f"{part.name}: " if part.name else ""
            own = part.rows(targets) if len(rows) else np.arange(0)
            if len(own) < wanted.fewest_rows:
                if _automatic(wanted) or _changes(wanted.method):
                    stages.note(
                        f"{named}nothing is calibrated, and there are no sets or intervals: {len(own):,} validation rows, "
                        f"fewer than {wanted.fewest_rows} ({_WHERE}.fewest_rows)"
                    )
                continue
            own = _some(own, len(part.task.names) or 1, plan.wanted.seed)
            part.task.trust = learnt(part, found[own][:, part.outputs], part.own(targets, own), wanted, plan.wanted.seed)
            if told := _told(part.task.trust):
                stages.note(f"{named}{told}")


def _some(rows: Array, columns: int, seed: int) -> Array:
    """Return the rows, or so many of them drawn as take seconds and not minutes."""
    most = max(_FEWEST_DRAWN, _MOST_NUMBERS // columns)
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, size=most, replace=False))


def learnt(part: Part, output: FloatArray, targets: Array, wanted: CalibrateOptions, seed: int) -> Trust:
    """Return what rows whose truth is known say about the answers to one target.

    Args:
        part: The target; what its task holds of it now is not looked at.
        output: Raw output of its head for the rows (N, C).
        targets: What is true.
        wanted: Method, score.
        seed: Draws folds.
    """
    task = part.task.bare()
    if not np.isfinite(output).all():
        return NOTHING  # the gates refuse such a network with its rows
    chosen = _chosen(task, output, targets, wanted, seed)
    judged_NC = task.judged(task.evidence(output) if chosen is None else chosen.outside_NC)
    conformal, pick = _conformal(task, judged_NC, targets, wanted)
    thresholds = None
    if right_or_wrong(task):
        given_N = kind_for(task).decided(judged_NC)
        thresholds = Thresholds.of(judged_NC[np.arange(len(given_N)), given_N], given_N == targets)
    trust = Trust(rows=len(targets), conformal=conformal, score=pick, thresholds=thresholds)
    if chosen is None:
        return trust
    return dataclasses.replace(trust, calibrator=chosen.calibrator, losses=chosen.losses)


def _chosen(task: Task, output: FloatArray, targets: Array, wanted: CalibrateOptions, seed: int) -> Chosen | None:
    """Return the calibrator, or nothing where there is nothing to calibrate."""
    link = task.link
    if link is None:
        return None
    evidence_NC, known = task.evidence(output), task.known(targets)
    names = _names(link, wanted)
    return choose(names, evidence_NC, known, link, seed, CALIBRATORS.names()[:1]) if names else None


def _names(link: Link, wanted: CalibrateOptions) -> list[str]:
    able = names_for(link)
    if _automatic(wanted):
        return able
    return [name for name in able if name == CALIBRATORS.canonical(wanted.method)]


def _conformal(
    task: Task, judged_NC: FloatArray, targets: Array, wanted: CalibrateOptions
) -> tuple[Conformal | None, Pick | None]:
    pick = _score_for(task, wanted)
    if pick is None:
        return None, None
    cls, options = pick.resolve(SCORES)
    return Conformal.of(cls(options), judged_NC, targets, per_class=wanted.per_class and cls.grouped), pick


def _score_for(task: Task, wanted: CalibrateOptions) -> Pick | None:
    """Return the score for a task: the one that was picked if it is for such answers, else the first that is."""
    if wanted.score.name and task.answers in SCORES.get(wanted.score.name).answers:
        return wanted.score
    return next((Pick(name) for name in SCORES if task.answers in SCORES.get(name).answers), None)


def _automatic(wanted: CalibrateOptions) -> bool:
    return wanted.method == AUTO


def _changes(name: str) -> bool:
    """Return whether a calibrator changes anything: of the first in the table it is known that it does not."""
    return CALIBRATORS.canonical(name) != CALIBRATORS.names()[0]


def _told(trust: Trust) -> str:
    """Return which calibrator was chosen and by what, as a sentence for people; nothing if none was looked for."""
    losses = trust.losses
    if not losses:
        return ""
    before, after = losses.get(CALIBRATORS.names()[0]), losses.get(trust.calibrator.name)
    if before is None or after is None or before == after:
        return f"calibration: {trust.calibrator.name}"
    return f"calibration: {trust.calibrator.name} (loss of validation rows {before:.4f} -> {after:.4f})"
