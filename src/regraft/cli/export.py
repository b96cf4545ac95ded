"""`regraft export`: an artifact becomes another form of the same network, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from regraft import lifecycle
from regraft.cli.console import people, watcher
from regraft.cli.flags import options_help, with_options
from regraft.cli.show import emit_json, show_export, show_replacing
from regraft.verbs import ExportOptions


@click.command(epilog=options_help(ExportOptions))
@click.argument("artifact", type=click.Path(path_type=Path))
@with_options(ExportOptions)
@click.option(
    "--json", "as_json", is_flag=True, help="Events as JSON lines on standard output; the last line is what was seen."
)
def export(artifact: Path, as_json: bool, values: dict[str, Any]) -> None:
    """Make ARTIFACT into another form; it appears only if a fresh process answers with it as ARTIFACT does."""
    show_replacing(values.get("out"))
    with watcher(as_json) as watch:
        made = lifecycle.export(artifact, listen=watch, **values)
    facts = lifecycle.inspect(made)
    show_export(facts, people() if as_json else None)
    if as_json:
        emit_json({"artifact": facts["path"], "digest": facts["digest"], "form": facts["network"]["form"], **facts["export"]})
