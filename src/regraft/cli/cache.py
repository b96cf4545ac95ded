"""`regraft cache`: what is kept of earlier work, and making room."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table

from regraft import lifecycle
from regraft.cli.console import people, results
from regraft.cli.flags import options_help, with_options
from regraft.cli.show import emit_json, megabytes
from regraft.training.cache.options import PruneOptions


@click.command(epilog=options_help(PruneOptions))
@with_options(PruneOptions)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def cache(as_json: bool, values: dict[str, Any]) -> None:
    """Show what is kept of earlier work (features of frozen layers, encoded rows); with --prune, make room."""
    found = lifecycle.cache(**values)
    console = people() if as_json else results()
    table = Table("kind", "key", "what", "rows", "size", "last used", box=None, pad_edge=False)
    for entry in found.entries:
        table.add_row(
            entry.kind, entry.key[:12], entry.about or "-", f"{entry.rows:,}", megabytes(entry.size_bytes), entry.used[:16]
        )
    if found.entries:
        console.print(table)
    if found.removed_files:
        freed = f"{found.removed_files:,} files removed, {megabytes(found.freed_bytes)} freed"
        console.print(freed, markup=False)
    total = f"{megabytes(found.size_bytes)} in {found.folder}, at most {megabytes(found.budget_bytes)} by default"
    console.print(total, markup=False, soft_wrap=True)
    if as_json:
        emit_json(found.to_json())
