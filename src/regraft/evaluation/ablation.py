"""What a part of a row is worth: the same model on the same rows, answered as if that part were missing in all of them."""

from __future__ import annotations

from collections.abc import Sequence

from regraft.evaluation.answer_kind import AnswerKind
from regraft.evaluation.clusters import relevant
from regraft.evaluation.ladder import Contender, Step, with_family
from regraft.evaluation.options import JudgeOptions
from regraft.evaluation.paired import compare_by
from regraft.types import Array


def ablation(
    contenders: Sequence[Contender],
    targets_N: Array,
    kind: AnswerKind,
    metrics: Sequence[str],
    *,
    options: JudgeOptions | None = None,
    seed: int = 0,
    groups_N: Array | None = None,
) -> tuple[Step, ...]:
    """Judge answers without a part, each against the answers with all parts, by a paired test on the same rows.

    Args:
        contenders: The model with all parts, then without each of them.
        targets_N: What is true; for classes the index of each row.
        kind: Kind of the answers.
        metrics: Registered names of the metrics.
        options: Resamples and confidence.
        seed: Seeds the resamples.
        groups_N: Which rows belong together; each by itself if not given.

    Returns:
        For each the metrics with n and interval, and how it stands against the whole: "worse" says that the part helps.
        Several parts are several comparisons: the verdicts are Holm's.

    Raises:
        DataError: There are no rows, or arrays do not fit each other.
    """
    options = options or JudgeOptions()
    fitted, *without = contenders
    targets_N, whole = kind.checked(targets_N, fitted.probabilities_NC)
    groups_N, steps = relevant(groups_N), []
    for contender in without:
        _, given_NC = kind.checked(targets_N, contender.probabilities_NC, contender.name)
        both, names = (whole, given_NC), ("fitted", contender.name)
        against = compare_by(kind, targets_N, both, names, options=options, seed=seed, groups_N=groups_N)
        judged = kind.judge(metrics, targets_N, given_NC, options=options, seed=seed, groups_N=groups_N)
        step = Step(
            name=contender.name,
            metrics=judged.metrics,
            seconds=contender.seconds,
            note=contender.note,
            against_previous=against,
        )
        steps.append(step)
    return with_family(steps, options.confidence)
