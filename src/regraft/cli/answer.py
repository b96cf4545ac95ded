"""`regraft evaluate`, `predict`, `compare` and `serve`: an artifact is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from regraft import lifecycle
from regraft.cli.console import people, watcher
from regraft.cli.draw import Drawing, with_drawing
from regraft.cli.flags import options_help, with_options, with_page
from regraft.cli.show import emit_json, show_comparison, show_page, show_prediction_summary, show_report
from regraft.verbs import AnswerOptions

_JSON_HELP = "Events as JSON lines on standard output; the last line is the report."


@click.command(epilog=options_help(AnswerOptions))
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("data", metavar="DATA")
@with_page
@with_options(AnswerOptions)
@click.option("--json", "as_json", is_flag=True, help=_JSON_HELP)
def evaluate(artifact: Path, data: str, as_json: bool, values: dict[str, Any], page: Path | None, language: str) -> None:
    """Judge ARTIFACT on labelled DATA (a file, a folder or a sample's name) that it has not learnt from.

    ARTIFACT may be a table of predictions made elsewhere, as for `compare`; --target then names the column of the truth.
    """
    with watcher(as_json) as watch:
        report = lifecycle.evaluate(artifact, data, page=page, language=language, listen=watch, **values)
    show_report(report, people() if as_json else None)
    show_page(page)
    if as_json:
        emit_json(report.to_json())


@click.command(epilog=options_help(AnswerOptions))
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("data", metavar="DATA")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Where answers go: .csv, .tsv, .jsonl or .parquet (standard output if neither it nor --render is given).",
)
@with_drawing(rows=24)
@with_options(AnswerOptions)
@click.option("--json", "as_json", is_flag=True, help="With --out: events and the summary as JSON lines on standard output.")
def predict(artifact: Path, data: str, out: Path | None, drawing: Drawing, as_json: bool, values: dict[str, Any]) -> None:
    """Answer every row of DATA; other columns are passed through, a bad row is reported in its place."""
    if as_json and out is None:
        raise click.UsageError("--json needs --out: without it standard output carries the answers")
    drawing.check()
    if drawing.out is not None and out is None:
        drawing.draw(artifact, data, values)
        return
    with watcher(as_json) as watch:
        summary = lifecycle.predict_file(artifact, data, out=out, listen=watch, **values)
    show_prediction_summary(summary, people())
    drawing.draw(artifact, data, values)
    if as_json:
        emit_json(summary.to_json())


@click.command(epilog=options_help(AnswerOptions))
@click.argument("artifacts", metavar="ARTIFACT ARTIFACT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("data", metavar="DATA")
@with_page
@with_options(AnswerOptions)
@click.option("--json", "as_json", is_flag=True, help=_JSON_HELP)
def compare(artifacts: tuple[Path, ...], data: str, as_json: bool, values: dict[str, Any], **drawn: Any) -> None:
    """Say whether the last ARTIFACT is better than those before it on the same labelled DATA.

    An ARTIFACT may be a table of predictions made elsewhere (.csv, .jsonl, .parquet): a column id, and probability.LABEL for
    every label or a column prediction. Artifacts that differ in nothing but their seed count as one, with its spread.
    """
    if len(artifacts) < 2:
        raise click.UsageError("compare takes two artifacts or more, and then the labelled rows")
    with watcher(as_json) as watch:
        report = lifecycle.compare(*artifacts, data, listen=watch, **drawn, **values)
    show_comparison(report, people() if as_json else None)
    show_page(drawn["page"])
    if as_json:
        emit_json(report.to_json())


@click.command(epilog=options_help(AnswerOptions))
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; another than loopback needs REGRAFT_TOKEN."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 takes a free one.")
@with_options(AnswerOptions)
def serve(artifact: Path, host: str, port: int, values: dict[str, Any]) -> None:
    """Answer over HTTP: POST /predict, POST /retrieve, GET /health, GET /info, and /openapi.json for programs."""
    lifecycle.serve(artifact, host=host, port=port, say=lambda text: people().print(text, markup=False), **values)
