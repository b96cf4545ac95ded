"""`regraft fit`: from a file of labelled rows to an artifact."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from regraft import lifecycle
from regraft.cli.console import people, watcher
from regraft.cli.flags import options_help, with_options
from regraft.cli.show import emit_json, show_fit, show_replacing
from regraft.verbs import FitOptions


@click.command(epilog=options_help(FitOptions))
@click.argument("data", metavar="[DATA]", required=False)
@with_options(FitOptions, config=True)
@click.option(
    "--resume", type=click.Path(path_type=Path), metavar="ARTIFACT", help="Go on with the interrupted fit of that --out, alike."
)
@click.option(
    "--start-from",
    type=click.Path(path_type=Path),
    metavar="ARTIFACT",
    help="Begin with what an artifact, or an interrupted fit of that --out, learnt; same base, task and labels.",
)
@click.option("--json", "as_json", is_flag=True, help="Events as JSON lines on standard output; the last line is the report.")
def fit(
    data: str | None,
    config: Path | None,
    resume: Path | None,
    start_from: Path | None,
    as_json: bool,
    values: dict[str, Any],
) -> None:
    """Fit a base to DATA (a file, a folder or a sample's name), judge it, save it as an artifact.

    With --config, DATA may stand in the recipe. With --resume nothing else is needed.

    Ctrl-C or SIGTERM ends it with exit code 3 after the present update and one checkpoint (of MiniLM 0.2 GB, about two seconds
    beside the update); a second one ends it at once. The message says how to go on.
    """
    show_replacing(values.get("out") or resume)
    began = time.monotonic()
    with watcher(as_json) as watch:
        artifact = lifecycle.fit(data, config=config, resume=resume, start_from=start_from, listen=watch, **values)
    report = artifact.report
    show_fit(artifact, report, time.monotonic() - began, people() if as_json or not sys.stdout.isatty() else None)
    if as_json:
        emit_json({**report.to_json(), "artifact": str(artifact.path), "digest": artifact.digest})
