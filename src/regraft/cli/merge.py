"""`regraft merge`: an artifact with adapters becomes one without, that answers alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from regraft import lifecycle
from regraft.cli.console import people, watcher
from regraft.cli.flags import options_help, with_options
from regraft.cli.show import emit_json, show_inspection, show_replacing
from regraft.verbs import MergeOptions


@click.command(epilog=options_help(MergeOptions))
@click.argument("artifact", type=click.Path(path_type=Path))
@with_options(MergeOptions)
@click.option(
    "--json", "as_json", is_flag=True, help="Events as JSON lines on standard output; the last line is what was made."
)
def merge(artifact: Path, as_json: bool, values: dict[str, Any]) -> None:
    """Fold the adapters of ARTIFACT into its weights; the result appears only if it answers as ARTIFACT does."""
    show_replacing(values.get("out"))
    with watcher(as_json) as watch:
        made = lifecycle.merge(artifact, listen=watch, **values)
    facts = lifecycle.inspect(made)
    show_inspection(facts, people() if as_json else None)
    if as_json:
        emit_json({"artifact": facts["path"], "digest": facts["digest"], "parent": facts["parent"]})
