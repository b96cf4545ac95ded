"""What people are shown when a verb is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from regraft.cli.console import people, results
from regraft.evaluation import METRICS, render
from regraft.evaluation.judge import metric_name
from regraft.evaluation.measure import shown
from regraft.recipe import changed

if TYPE_CHECKING:
    from regraft.artifact.store import Artifact
    from regraft.evaluation.report import Report
    from regraft.serving.stream import StreamSummary


def emit_json(value: object) -> None:
    """Write one JSON object as the last line of standard output."""
    click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def megabytes(size_bytes: int) -> str:
    """Return a size as people read it."""
    return f"{size_bytes / 1e6:,.1f} MB"


def _show_ledger(report: Report, console: Console) -> None:
    for why, loss in report.ledger.to_json().items():
        console.print(render.ledger_line(why, loss), style="yellow", markup=False, soft_wrap=True)


def _show_cost(report: Report, console: Console) -> None:
    for line in render.cost_lines(report):
        console.print(line, style="dim", markup=False, soft_wrap=True)


def show_replacing(out: str | Path | None) -> None:
    """Say that an artifact stands where the new one will, before anything is done; it stays until the new one is whole."""
    from regraft.artifact.verify import is_ours

    if out and is_ours(Path(out)):
        told = f"{out} is an artifact: it stays until the new one is whole, and is then replaced"
        people().print(told, markup=False, style="yellow", soft_wrap=True)


def show_fit(artifact: Artifact, report: Report, seconds: float, console: Console | None) -> None:
    """Show what `fit` made: verdict, ladder, where it is, what to do next."""
    from regraft.artifact.store import PAGE

    console = console or results()
    for drawn in render.found(report):
        console.print(drawn)
    _show_ledger(report, console)
    _show_cost(report, console)
    console.print(
        f"\nArtifact {artifact.path}, {megabytes(artifact.size_bytes)} ({artifact.digest[:12]}), {seconds:.0f} s in all",
        markup=False,
        soft_wrap=True,
    )
    if PAGE in artifact.manifest.files:
        console.print(f"Report: {artifact.path / PAGE}", markup=False, soft_wrap=True)
    console.print(f"Next: regraft predict {artifact.path} FILE --out answers.csv", markup=False, soft_wrap=True)


def show_report(report: Report, console: Console | None) -> None:
    """Show a whole report."""
    (console or results()).print(render.draw(report))


def show_comparison(report: Report, console: Console | None) -> None:
    """Show the verdict and both artifacts side by side, and what their answers cost."""
    console = console or results()
    for drawn in render.ladders(report):
        console.print(drawn)
    for note in render.note_lines(report):
        console.print(note, style="dim", markup=False, soft_wrap=True)
    _show_ledger(report, console)
    _show_cost(report, console)


def show_page(page: Path | None) -> None:
    """Say where the report page is, if one was written."""
    if page is not None:
        people().print(f"Report page: {page}", markup=False, soft_wrap=True)


def show_prediction_summary(summary: StreamSummary, console: Console) -> None:
    """Show how many rows were answered and what was lost."""
    rate = summary.rows / summary.seconds if summary.seconds else 0.0
    console.print(f"{summary.answered:,} of {summary.rows:,} rows answered in {summary.seconds:.1f} s ({rate:,.0f} rows/s)")
    for note in summary.notes:
        console.print(f"  {note}", style="dim", markup=False)
    for why, loss in summary.ledger.to_json().items():
        console.print(f"  {render.ledger_line(why, loss)}", style="yellow", markup=False)


def _interval(name: str, metric: dict[str, Any]) -> str:
    in_units = METRICS.get(metric_name(name)[1]).in_units
    ends = ("?" if metric[end] is None else shown(metric[end], in_units=in_units, digits=4) for end in ("value", "low", "high"))
    return "{} [{}, {}]".format(*ends)


def _ancestor(entry: dict[str, Any]) -> str:
    return f"{entry['verb']} {entry['name']} ({entry['digest'][:12]})"


def _itself(facts: dict[str, Any]) -> str:
    return f"{facts['verb']}{' ' + facts['export']['format'] if facts['export'] else ''} ({facts['digest'][:12]}, this one)"


def _labels(state: dict[str, Any]) -> str:
    labels = state.get("labels", [])
    return f": {', '.join(str(label) for label in labels)}" if labels else ""


def _trusted(target: str, known: dict[str, Any]) -> str:
    """Return how the answers to a target were calibrated, and what sets or intervals are made by."""
    said = f"calibration {known['calibrator']['name']}" + (f", {known['score']} for coverage" if "score" in known else "")
    return f"{f'{target}: ' if target else ''}{said}, from {known['rows']:,} validation rows"


def _columns(entry: dict[str, Any]) -> str:
    return ", ".join(entry["spec"].get("columns") or [entry["column"]])


def show_export(facts: dict[str, Any], console: Console | None) -> None:
    """Show what an export is and how it was held against its source."""
    console = console or results()
    gate = facts["export"]["gate"]
    console.print(
        f"{facts['export']['format']} in {facts['path']}, {megabytes(facts['size_bytes'])}", markup=False, soft_wrap=True
    )
    for runtime, seen in gate["runtimes"].items():
        far = f"logits within {seen['worst_logit']:.2g}, probabilities within {seen['worst_probability']:.2g}"
        told = f"{runtime}: {seen['rows']:,} rows answered as by the source; {far}, {seen['agreement']:.1%} the same answers"
        console.print(told, markup=False, soft_wrap=True)
    console.print(f"held against {gate['rows']}", markup=False, soft_wrap=True)


def show_inspection(facts: dict[str, Any], console: Console | None) -> None:
    """Show what is in an artifact."""
    console = console or results()
    task = facts["task"]
    named = _labels(task["state"])
    targets = {one["name"]: one["state"] for one in task["state"].get("targets", [])}
    heads = [
        (f"head {number}", f"{name}: {task['options']['targets'][name]['name']}{_labels(state)}")
        for number, (name, state) in enumerate(targets.items(), start=1)
    ]
    rows = [
        ("artifact", facts["path"]),
        ("digest", facts["digest"]),
        ("weights", facts["weights_digest"]),
        ("made", f"{facts['created']} with regraft {facts['versions'].get('regraft', '?')}, format {facts['format']}"),
        ("lineage", " -> ".join([facts["base"].get("name", "?"), *map(_ancestor, facts["lineage"]), _itself(facts)])),
        ("task", f"{task['name']}{named}"),
        *heads,
        *(("trust", _trusted(name, known)) for name, known in task["calibration"].items()),
        ("reads", ", ".join(f"{_columns(entry)} ({entry['modality']})" for entry in facts["inputs"])),
        ("predicts", facts["target"]["column"]),
        ("base", " ".join(str(facts["base"].get(key, "")) for key in ("name", "source", "revision", "licence")).strip()),
        (
            "options",
            ", ".join(f"{'.'.join(path)}={json.dumps(value)}" for path, value in changed(facts["options"])) or "defaults",
        ),
        *([("recipe", json.dumps(facts["recipe"], ensure_ascii=False))] if facts["recipe"] else []),
        ("size", f"{megabytes(facts['size_bytes'])} in {len(facts['files'])} files, {facts['golden_rows']} golden rows"),
    ]
    for name, value in rows:
        console.print(f"[bold]{name:>9}[/bold]  ", end="")
        console.print(value, markup=False, soft_wrap=True)
    report = facts["report"]
    for name, metric in (report.get("metrics") or {}).items():
        if metric["value"] is not None:
            console.print(
                f"{name:>20}  {_interval(name, metric)}  n = {metric['n']:,}",
                markup=False,
            )
    for name, verdict in report.get("verdicts", {}).items():
        console.print(f"{f'verdict {name}':>20}  {verdict}", markup=False)
    if report.get("verdict"):
        console.print(f"{'verdict':>20}  {report['verdict']}", markup=False)
