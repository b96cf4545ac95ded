"""Several artifacts side by side: figures in one table, losses in one chart, paired tests where rows are shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.artifact import predictions
from regraft.artifact.store import PREDICTIONS, Artifact
from regraft.errors import RegraftError
from regraft.evaluation.answer_kind import kind_for
from regraft.evaluation.options import JudgeOptions
from regraft.options import JSON
from regraft.reporting.forms import bounds_of, form_of
from regraft.reporting.section import NONE, Found, Page, figure, key, span_of, table, text, whisker
from regraft.reporting.sections.ladder import badge

if TYPE_CHECKING:
    from regraft.evaluation.answers import Answers
    from regraft.reporting.subject import Subject
    from regraft.types import Array

_SAME, _OTHER, _UNKNOWN = "same", "other", "unknown"
_NOTES = {_SAME: "same-rows", _OTHER: "other-rows", _UNKNOWN: "no-answers"}
_HEADS = ("tuning", "base")


def paired(artifacts: Sequence[Artifact], seed: int = 0) -> list[dict[str, JSON]]:
    """Return what a paired test says of each artifact against the first, where both were judged on the same rows.

    Args:
        artifacts: Two or more.
        seed: Seeds the resamples.

    Returns:
        One entry an artifact: {"rows": "same", "other" or "unknown", "comparison": as `Comparison.to_json` gives it, or None};
        "unknown" where answers were not kept.
    """
    first = _kept(artifacts[0])
    return [{"rows": _SAME, "comparison": None}, *(_against(artifacts[0], first, other, seed) for other in artifacts[1:])]


def side_by_side(subjects: Sequence[Subject], page: Page, between: Sequence[Mapping[str, JSON]]) -> str:
    """Return one line an artifact with every metric, and the curves of their losses together.

    Args:
        subjects: Two or more.
        page: Language and charts.
        between: What `paired` gave, or nothing.
    """
    names = list(dict.fromkeys(name for subject in subjects for name in subject.report.get("metrics") or {}))
    headline = names[0] if names else ""
    span = span_of([(subject.report.get("metrics") or {}).get(headline) for subject in subjects], bounds_of(headline))
    found = [Found(subject=subject, values=subject.report, number=number) for number, subject in enumerate(subjects)]
    tested = between or [{"rows": _UNKNOWN, "comparison": None}] * len(subjects)
    rows = [_row(one, page, names, span, entry) for one, entry in zip(found, tested, strict=True)]
    first = text(subjects[0].name)
    head = [page.say("artifact"), page.say("against-first", name=first), text(headline), *map(text, names)]
    head += [page.say("rows"), *(page.say(name) for name in _HEADS), page.say("time"), page.say("size")]
    kinds = [kind for kind in _NOTES if any(entry["rows"] == kind for entry in tested[1:])]
    told = "".join(f"<p>{page.say(_NOTES[kind], name=first)}</p>" for kind in kinds)
    drawn = told + table(head, rows, wide=True)
    runs = [(subject.name, subject.events) for subject in subjects if subject.events]
    if page.charts is not None and len(runs) > 1:
        drawn += figure(page.charts.losses(runs, page.words), page.say("losses-together"))
    return drawn


def _row(found: Found, page: Page, names: Sequence[str], span: tuple[float, float], tested: Mapping[str, Any]) -> list[str]:
    report, facts, comparison = found.values, found.subject.facts, tested["comparison"]
    metric = (report.get("metrics") or {}).get(names[0] if names else "") or {}
    told = NONE
    if comparison:
        ends = " ".join(_shown(comparison, end) for end in ("value", "low", "high"))
        told = f'{badge(page, comparison["verdict"])}<br><span class="ends">{ends}, p {comparison["p_value"]:.2g}</span>'
    elif tested["rows"] != _SAME:
        told = f'<span class="quiet">{page.say("rows-" + str(tested["rows"]))}</span>'
    about = report.get("about") or {}
    cells = [f'<a href="#subject-{found.number}">{text(found.subject.name)}</a>', told]
    cells.append(whisker(metric.get("value"), metric.get("low"), metric.get("high"), span, strong=not found.number))
    cells += [found.interval(f"metrics/{key(name)}", form_of(name)) for name in names]
    cells.append(found.number_at("n", "count"))
    cells += [text(about.get(name)) for name in _HEADS]
    return [
        *cells,
        found.number_at("seconds", "seconds"),
        found.source("manifest", "size_bytes", "megabytes") if facts else NONE,
    ]


def _shown(comparison: Mapping[str, Any], end: str) -> str:
    value = comparison["difference"][end]
    told = f"{value:+.3g}" if comparison.get("quantity") else f"{100 * value:+.1f}"
    return {"value": told, "low": f"[{told},", "high": f"{told}]"}[end]


def _kept(artifact: Artifact) -> tuple[Array, Answers] | None:
    """Return the answers that an artifact has kept, with the places of their rows."""
    if PREDICTIONS not in artifact.manifest.files:
        return None
    from regraft.serving.predictor import restore

    _, task = restore(artifact)
    return predictions.read(artifact.path / PREDICTIONS, task)


def _against(one: Artifact, first: tuple[Array, Answers] | None, other: Artifact, seed: int) -> dict[str, JSON]:
    second = _kept(other)
    if first is None or second is None:
        return {"rows": _UNKNOWN, "comparison": None}
    digests = [(artifact.manifest.fingerprints.get("test") or {}).get("order_digest") for artifact in (one, other)]
    if digests[0] is None or digests[0] != digests[1] or not np.array_equal(first[0], second[0]):
        return {"rows": _OTHER, "comparison": None}
    try:
        return {"rows": _SAME, "comparison": _compared(first[1], second[1], (one.path.name, other.path.name), seed)}
    except (RegraftError, ValueError, IndexError):
        return {"rows": _OTHER, "comparison": None}  # the same inputs, judged by other targets


def _compared(first: Answers, second: Answers, names: tuple[str, str], seed: int) -> JSON:
    """Return the comparison of two kept answers to the same rows as JSON; classes may stand in another order."""
    kind, own = kind_for(first.task), kind_for(second.task)
    if type(kind) is not type(own) or sorted(map(str, kind.columns)) != sorted(map(str, own.columns)):
        raise ValueError("other answers")
    outputs_NC = second.outputs_NC
    if kind.columns != own.columns:
        outputs_NC = outputs_NC[:, [own.columns.index(name) for name in kind.columns]]
    targets_N, first_NC = kind.checked(first.targets_N, first.outputs_NC)
    _, second_NC = kind.checked(targets_N, outputs_NC)
    return kind.compare(targets_N, (first_NC, second_NC), names, options=JudgeOptions(), seed=seed).to_json()
