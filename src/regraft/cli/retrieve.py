"""`regraft retrieve`: an artifact of two towers is asked with one part of a row for the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from regraft import lifecycle
from regraft.cli.console import people, watcher
from regraft.cli.flags import options_help, with_options
from regraft.verbs import RetrieveOptions


@click.command(epilog=options_help(RetrieveOptions))
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("queries", metavar="DATA")
@click.option("--among", required=True, help="Rows that can be found: a file, a folder or a sample's name.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Where what was found goes: .csv, .tsv, .jsonl or .parquet (standard output if not given).",
)
@with_options(RetrieveOptions)
def retrieve(artifact: Path, queries: str, among: str, out: Path | None, values: dict[str, Any]) -> None:
    """Find the rows of --among that belong to each row of DATA: pictures by names, names by pictures.

    With a list of names as --among, pictures are told apart by names that no training row had.
    """
    with watcher(False) as watch:
        ledger = lifecycle.retrieve_file(artifact, queries, among=among, out=out, listen=watch, **values)
    for reason, count in ledger.counts.items():
        people().print(f"{count:,} {reason}: {'; '.join(ledger.examples.get(reason, []))}", markup=False, soft_wrap=True)
