"""`regraft report`: what artifacts say of themselves, as a page for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from regraft import lifecycle
from regraft.cli.flags import options_help, with_options
from regraft.cli.show import emit_json, show_page
from regraft.verbs import ReportOptions


@click.command(epilog=options_help(ReportOptions))
@click.argument("artifacts", metavar="ARTIFACT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@with_options(ReportOptions)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def report(artifacts: tuple[Path, ...], as_json: bool, values: dict[str, Any]) -> None:
    """Write the report page of ARTIFACT, or of up to ten side by side; artifacts judged on the same rows are compared."""
    page = lifecycle.report(*artifacts, **values)
    show_page(page)
    if as_json:
        emit_json({"page": str(page), "artifacts": [str(artifact) for artifact in artifacts], "bytes": page.stat().st_size})
