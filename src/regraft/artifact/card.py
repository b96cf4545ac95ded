"""The card: one page of Markdown that says what an artifact is, on what evidence, and where it must not be trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from regraft.artifact.manifest import ManifestBody
from regraft.evaluation import METRICS
from regraft.evaluation.judge import metric_name
from regraft.evaluation.measure import shown
from regraft.evaluation.trust_lines import trust_lines
from regraft.options import JSON
from regraft.training.cost import sentences

_PAGE = (
    "\n\nEverything that was found, with charts and the worst errors: [report.html](report.html), in the folder of the fit "
    "(`regraft report` makes it again)."
)


def card(body: ManifestBody, report: Mapping[str, JSON], *, name: str, command: str) -> str:
    """Return the text of card.md.

    Args:
        body: What the artifact is made of.
        report: The report of the run (`Report.to_json`): metrics, ladder, verdict, ledger, notes, n, seconds.
        name: Name of the artifact's folder.
        command: Command line that makes the artifact again.
    """
    sections = [
        f"# {name}\n\n{_what(body)}",
        "## How good it is\n\n" + _evidence(report) + _PAGE,
        "## Data\n\n" + _data(body, report),
        "## Base and licence\n\n" + _base(body.base),
        "## How to use it\n\n" + _use(body, name),
        "## Limits\n\n" + _limits(body, report),
        *_cost(report),
        f"## How to make it again\n\n```\n{command}\n```\n\nWeights digest: `{body.weights_digest}` "
        "(the same command on the same data, seed, versions and thread count gives the same).",
    ]
    return "\n\n".join(sections) + "\n"


def _what(body: ManifestBody) -> str:
    read = [(", ".join(f"`{name}`" for name in entry.columns), entry.modality) for entry in body.inputs]
    inputs = ", ".join(f"{names} ({modality})" for names, modality in read)
    labels = body.task.state.get("labels")
    named = f" Answers: {_listed([str(label) for label in labels])}." if isinstance(labels, Sequence) else ""
    for one in body.task.state.get("targets") or []:
        known = one["state"].get("labels")
        told = f" ({_listed([str(label) for label in known])})" if isinstance(known, Sequence) else ""
        named += f" `{one['name']}`: {body.task.options['targets'][one['name']]['name']}{told}."
    return f"A model for {body.task.name}: reads {inputs}, predicts `{body.target.column}`.{named}"


def _evidence(report: Mapping[str, JSON]) -> str:
    targets = report.get("targets") or {}
    if targets:
        found = [f"### {name}\n\n{_evidence(one)}" for name, one in targets.items() if isinstance(one, Mapping)]
        weakest = f"The weakest verdict of the targets: **{report.get('verdict')}**."
        return "\n\n".join([weakest, *found])
    parts = []
    verdict = report.get("verdict")
    if verdict:
        parts.append(f"Verdict, fitted against the best rung below it: **{verdict}**.")
    ladder = report.get("ladder") or []
    rungs = [(str(rung.get("name", "")), rung.get("metrics") or {}) for rung in ladder if isinstance(rung, Mapping)]
    rows = rungs or [("fitted", report.get("metrics") or {})]
    names = list(dict.fromkeys(name for _, metrics in rows for name in metrics))
    if names:
        table = [[rung, *(_metric(name, metrics.get(name)) for name in names)] for rung, metrics in rows]
        parts.append(_table(["", *names], table))
        parts.append(f"Value with its 95 % interval, on the same {_count(report.get('n'))} held-out rows for every line.")
    if lines := trust_lines(report):
        parts.append("How far it can be trusted, on the same rows:\n\n" + "\n".join(f"- {line}" for line in lines))
    return "\n\n".join(parts) or "Nothing was measured."


def _metric(name: str, value: Any) -> str:
    if not isinstance(value, Mapping) or value.get("value") is None:
        return "-"
    name = metric_name(name)[1]
    in_units = name in METRICS and METRICS.get(name).in_units
    if value.get("low") is None or value.get("high") is None:
        return shown(value["value"], in_units=in_units)
    value, low, high = (shown(value[end], in_units=in_units) for end in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _data(body: ManifestBody, report: Mapping[str, JSON]) -> str:
    rows = [
        [str(split), _count(facts.get("rows")), f"`{str(facts.get('rows_digest', ''))[:16]}`"]
        for split, facts in body.fingerprints.items()
        if isinstance(facts, Mapping)
    ]
    parts = [_table(["split", "rows", "digest"], rows)] if rows else ["No fingerprint was recorded."]
    ledger = report.get("ledger") or {}
    lost = [f"- {reason}: {_count(entry.get('count'))}" for reason, entry in ledger.items() if isinstance(entry, Mapping)]
    parts.append("Lost or odd on the way:\n\n" + "\n".join(lost) if lost else "Nothing was lost on the way.")
    return "\n\n".join(parts)


def _base(base: Mapping[str, JSON]) -> str:
    lines = [f"- {key}: {value}" for key, value in base.items() if isinstance(value, str | int | float) and value != ""]
    if "licence" not in base:
        lines.append("- licence: not recorded; ask whoever made the base before you pass this artifact on")
    return "\n".join(lines)


def _use(body: ManifestBody, name: str) -> str:
    entry = body.inputs[0]
    several = entry.columns != (entry.column,)
    has = f"the columns {', '.join(entry.columns)}" if several else f"a column '{entry.column}'"
    row = json.dumps(dict.fromkeys(entry.columns, "..."), ensure_ascii=False) if several else '"..."'
    return (
        f"```\nregraft predict {name} FILE --out answers.csv     # FILE has {has}\n"
        f"regraft serve {name}                              # POST /predict on 127.0.0.1\n```\n\n"
        f'```python\nimport regraft as rg\n\nrg.load("{name}").predict([{row}])\n```'
    )


def _limits(body: ManifestBody, report: Mapping[str, JSON]) -> str:
    lines = [
        "- It knows only the answers above, and gives one of them to anything it is shown."
        if "labels" in body.task.state
        else "- It gives an answer to anything it is shown, also to what is unlike the training rows.",
        "- The figures hold for data like the test rows; on other data judge it first: `regraft evaluate`.",
    ]
    length = body.inputs[0].spec.get("max_length", body.inputs[0].options.get("max_length"))
    if length is not None:
        lines.append(f"- It reads at most {length} positions of an input; what is cut off is counted in every report.")
    lines += [f"- {note}" for note in report.get("notes") or [] if isinstance(note, str)]
    return "\n".join(lines)


def _cost(report: Mapping[str, JSON]) -> list[str]:
    lines = [f"- {line}" for line in sentences(report.get("cost") or {})]
    return ["## What it cost\n\n" + "\n".join(lines)] if lines else []


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _count(number: Any) -> str:
    return f"{number:,}" if isinstance(number, int) else "unknown"


def _listed(names: Sequence[str]) -> str:
    first = ", ".join(f"`{name}`" for name in names[:20])
    return first + (f" and {len(names) - 20} more" if len(names) > 20 else "")
