"""What a report says of how far answers can be trusted: calibration, sets and intervals, abstaining; see `evaluation.report`.

All of it is seen on the judged rows. Validation rows chose the best epoch, the calibrator and the thresholds, so that what they
promise is a promise only as far as rows to come are like them; what is seen here is the check.

Shapes: N rows, C columns.
"""

from __future__ import annotations

import numpy as np

from regraft.calibration.abstain import CONFIDENCE, Thresholds
from regraft.calibration.score import Conformal
from regraft.evaluation.answer_kind import kind_for
from regraft.evaluation.shares import wilson
from regraft.options import JSON
from regraft.tasks.sureness import PLAIN, Asked, right_or_wrong
from regraft.tasks.task import Part, Task
from regraft.types import Array, FloatArray

COVERAGE = 0.9
"""What sets and intervals are reported for where nothing else is asked for."""
PRECISIONS = (0.9, 0.95, 0.98, 0.99)
"""What thresholds are reported for, beside one that is asked for."""
_CURVE = 50
_UNKNOWN = "nothing was calibrated: there were no validation rows, or too few"
_AGAIN = "the validation rows behind it also chose the best weights: coverage_seen, on the judged rows, is the check"


def trusted(part: Part, targets: Array, outputs: FloatArray, asked: Asked = PLAIN, confidence: float = 0.95) -> dict[str, JSON]:
    """Return what a report says of one target, by its keys; nothing of what cannot be said.

    Args:
        part: The target.
        targets: Those of all judged rows.
        outputs: Raw outputs of all heads for them (N, ...).
        asked: The coverage and precision that are reported.
        confidence: Of every interval.
    """
    task, rows = part.task, part.rows(targets)
    if not len(rows) or task.paired:
        return {}
    own = np.asarray(outputs)[rows][:, part.outputs]
    kind = kind_for(task)
    truth, after = kind.checked(part.own(targets, rows), task.probabilities(own))
    told: dict[str, JSON] = {}
    first, then = (kind.honesty(truth, judged, confidence=confidence) for judged in (task.bare().probabilities(own), after))
    if first is not None and then is not None:
        told["calibration"] = {
            "method": task.trust.calibrator.name,
            "chosen_by": dict(task.trust.losses),
            "validation_rows": task.trust.rows,
            "n": len(truth),
            "before": first.figures,
            "after": then.figures,
            "intervals": {"before": first.intervals, "after": then.intervals},
            "reliability": {"before": first.diagram, "after": then.diagram},
            **({} if task.trust.rows else {"notes": [_UNKNOWN]}),
        }
    if task.trust.conformal is not None:
        told["conformal"] = _covered(task, task.trust.conformal, truth, after, (asked.coverage or COVERAGE, confidence))
    if right_or_wrong(task):
        told["abstain"] = _abstained(task, truth, after, asked, confidence)
    return told


def _covered(
    task: Task, conformal: Conformal, truth: Array, judged: FloatArray, wanted: tuple[float, float]
) -> dict[str, JSON]:
    """Return how often sets or intervals hold the truth, and how large they are."""
    coverage, confidence = wanted
    short = conformal.short_of(coverage)
    told: dict[str, JSON] = {
        "score": conformal.score.name,
        "per_class": conformal.per_class,
        "validation_rows": conformal.rows,
        "coverage_wanted": coverage,
        "notes": [_AGAIN],
    }
    if len(short) == len(conformal.ranked):
        return {**told, "coverage_seen": None, "mean_size": None, "notes": ["too few validation rows for such a coverage"]}
    if not conformal.score.gives_sets:
        ends_N2 = conformal.intervals(judged, coverage)
        inside_N = (ends_N2[:, 0] <= truth) & (truth <= ends_N2[:, 1])
        widths_N = ends_N2[:, 1] - ends_N2[:, 0]
        told |= {"coverage_seen": _share(inside_N, confidence), "mean_size": float(widths_N.mean())}
        return {**told, "sizes": {f"{level:g}": float(np.quantile(widths_N, level)) for level in (0.1, 0.5, 0.9)}}
    sets_NC = conformal.sets(judged, coverage)
    inside_N, sizes_N = sets_NC[np.arange(len(truth)), truth], sets_NC.sum(axis=1)
    sizes, rows = np.unique(sizes_N, return_counts=True)
    if short:
        names = ", ".join(f"'{task.names[place]}'" for place in short[:10])
        told["notes"] += [f"classes with too few validation rows for such a coverage are in every set: {names}"]
    by_class = [
        {"label": name, **_share(inside_N[truth == place], confidence)}
        for place, name in enumerate(task.names)
        if (truth == place).any()
    ]
    told |= {"coverage_seen": _share(inside_N, confidence), "mean_size": float(sizes_N.mean())}
    return {**told, "sizes": dict(zip(map(str, sizes.tolist()), rows.tolist(), strict=True)), "by_class": by_class}


def _abstained(task: Task, truth: Array, judged: FloatArray, asked: Asked, confidence: float) -> dict[str, JSON]:
    """Return what leaving out unsure answers costs and gains, on the judged rows, and what thresholds keep their promise."""
    given_N = kind_for(task).decided(judged)
    sure_N = judged[np.arange(len(truth)), given_N]
    right_N = given_N == truth
    told: dict[str, JSON] = {"n": len(truth), "curve": Thresholds.of(sure_N, right_N, _CURVE).curve(confidence)}
    table = task.trust.thresholds
    if table is None:
        return told
    wanted = sorted({*PRECISIONS, *([asked.precision] if asked.precision is not None else [])})
    promises = [_promise(table, precision, sure_N, right_N, confidence) for precision in wanted]
    return {**told, "validation_rows": table.rows, "confidence": CONFIDENCE, "promises": promises}


def _promise(table: Thresholds, precision: float, sure_N: FloatArray, right_N: Array, confidence: float) -> dict[str, JSON]:
    """Return the threshold for a precision, what share of rows it answers, and how often these are right."""
    threshold = table.threshold(precision)
    if threshold is None:
        return {"precision": precision, "threshold": None}
    answered_N = sure_N >= threshold
    return {
        "precision": precision,
        "threshold": threshold,
        "coverage": table.at(threshold)[0] / table.rows,
        "coverage_seen": _share(answered_N, confidence),
        "precision_seen": _share(right_N[answered_N], confidence) if answered_N.any() else None,
    }


def _share(yes_N: Array, confidence: float) -> dict[str, JSON]:
    """Return the share of rows with Wilson's interval."""
    low, high = wilson(int(yes_N.sum()), len(yes_N), confidence)
    return {"value": float(yes_N.mean()), "low": low, "high": high, "n": len(yes_N)}
