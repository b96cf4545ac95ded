"""What a part of a row is worth: the same model on the same rows, answered as if that part were missing in all of them."""

from __future__ import annotations

from collections.abc import Sequence

from regraft.evaluation.answer_kind import AnswerKind
from regraft.evaluation.ladder import Contender, Step
from regraft.evaluation.options import JudgeOptions
from regraft.types import Array, FloatArray


def ablation(
    whole: FloatArray,
    without: Sequence[Contender],
    targets_N: Array,
    kind: AnswerKind,
    metrics: Sequence[str],
    *,
    options: JudgeOptions | None = None,
    seed: int = 0,
) -> tuple[Step, ...]:
    """Judge answers without a part, each against the answers with all parts, by a paired test on the same rows.

    Args:
        whole: What the model gives with all parts.
        without: What it gives without each of them.
        targets_N: What is true; for classes the index of each row.
        kind: Kind of the answers.
        metrics: Registered names of the metrics.
        options: Resamples and confidence.
        seed: Seeds the resamples.

    Returns:
        For each the metrics with n and interval, and how it stands against the whole: "worse" says that the part helps.

    Raises:
        DataError: There are no rows, or arrays do not fit each other.
    """
    options = options or JudgeOptions()
    targets_N, whole = kind.checked(targets_N, whole)
    steps = []
    for contender in without:
        _, given_NC = kind.checked(targets_N, contender.probabilities_NC, contender.name)
        against = kind.compare(targets_N, (whole, given_NC), ("fitted", contender.name), options=options, seed=seed)
        judged = kind.judge(metrics, targets_N, given_NC, options=options, seed=seed)
        step = Step(
            name=contender.name,
            metrics=judged.metrics,
            seconds=contender.seconds,
            note=contender.note,
            against_previous=against,
        )
        steps.append(step)
    return tuple(steps)
