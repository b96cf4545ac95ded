"""`regraft inspect`, `bases` and `list`: look, change nothing (but for fetching a base)."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from regraft import answering, lifecycle
from regraft.cli.console import people, results
from regraft.cli.draw import Drawing, with_drawing
from regraft.cli.show import emit_json, megabytes, show_inspection
from regraft.errors import Problem, UsageError
from regraft.families import FAMILIES
from regraft.options import describe


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@with_drawing(rows=16)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def inspect(artifact: Path, drawing: Drawing, as_json: bool) -> None:
    """Verify ARTIFACT and show what is in it, where it comes from and how good it is; --render draws the golden rows."""
    drawing.check()
    facts = lifecycle.inspect(artifact)
    show_inspection(facts, people() if as_json else None)
    drawing.draw(artifact, None, {})
    if as_json:
        emit_json(facts)


@click.command()
@click.argument("name", required=False)
@click.option("--fetch", is_flag=True, help="Fetch and verify the base, so that it works without a network.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def bases(name: str | None, fetch: bool, as_json: bool) -> None:
    """List the base models: modality, size, licence, where from, fetched or not. With NAME, that one."""
    if fetch and name is None:
        raise click.UsageError("--fetch needs the NAME of a base")
    cards = lifecycle.bases(name, fetch=fetch, say=lambda text: people().print(text, markup=False))
    table = Table("name", "modality", "weights", "size", "licence", "from", "ready", box=None, pad_edge=False)
    for card in cards:
        weights = f"{card.parameters / 1e6:.1f} M" if card.parameters else "by options"
        size = megabytes(card.size_bytes) if card.size_bytes else "-"
        table.add_row(card.name, card.modality, weights, size, card.licence, card.source, "yes" if card.fetched else "no")
    (people() if as_json else results()).print(table)
    if as_json:
        emit_json({"bases": [vars(card) for card in cards]})


@click.command("list")
@click.argument("family", metavar="[FAMILY]", required=False)
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--compatible", type=click.Path(path_type=Path), help="Only what works with the network of this artifact.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def list_family(family: str | None, name: str | None, compatible: Path | None, as_json: bool) -> None:
    """List what can be chosen in FAMILY (tasks, bases, tunings, readers, ...), with its options; without it, the families.

    With NAME, that one alone.
    """
    console = people() if as_json else results()
    if family is None:
        if compatible is not None:
            raise click.UsageError("--compatible needs a FAMILY: regraft list bases --compatible ARTIFACT")
        for name in FAMILIES.names():
            console.print(f"[bold]regraft list {name}[/bold]  {', '.join(FAMILIES.get(name).names())}", soft_wrap=True)
        if as_json:
            emit_json({"families": {name: list(FAMILIES.get(name).names()) for name in FAMILIES.names()}})
        return
    found = lifecycle.list_family(family, compatible=compatible)
    if name is not None:
        registry = FAMILIES.get(family)
        registry.get(name)  # the nearest names where there is none
        wanted = registry.canonical(name)
        found = {known: what for known, what in found.items() if known == wanted}
        if not found:
            what, fix = f"'{name}' does not work with the network of this artifact", f"see regraft list {family}"
            raise UsageError(Problem(what=what, where=str(compatible), fix=fix))
    for name, what in found.items():
        console.print(f"[bold]{name}[/bold]  {what}")
        cls = answering.declared(FAMILIES.get(family), name, "Options", None)
        for row in describe(cls) if cls else ():
            console.print(f"    {row.path}: {row.type} [{row.default}]  {row.help}", markup=False, style="dim")
    if as_json:
        emit_json({"family": family, "names": found})
