"""Answered rows to where people look at them: a .png, a .html, a folder of both, or the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.data.atomic import atomic_file
from regraft.errors import OptionsError, Problem
from regraft.registry import require
from regraft.rendering.figure import sheet
from regraft.rendering.inner import renderer_of
from regraft.rendering.page import page
from regraft.rendering.renderer import Renderer, Shown, caption

if TYPE_CHECKING:
    from rich.console import Console

    from regraft.modalities.modality import Modality

_INDEX, _PAGE = "index.html", ".html"
_FORMS: Mapping[str, Callable[[Renderer, Sequence[Shown], str], bytes]] = {
    ".png": lambda renderer, rows, _: sheet(renderer, rows),
    _PAGE: page,
}


def check_out(out: str | Path | Console) -> None:
    """Refuse a place that is neither a .png, a .html, a folder nor a console, before anything is answered.

    Raises:
        OptionsError: It is a file of another kind, or a file where a folder is wanted.
        MissingExtraError: It takes matplotlib, which is not installed.
    """
    if not isinstance(out, str | Path):
        return
    place = Path(out)
    if place.suffix and place.suffix.lower() not in _FORMS:
        expected = f"{', '.join(_FORMS)}, or a folder (a name without a suffix)"
        fix = "choose one of these endings"
        raise OptionsError(
            Problem(what="rows cannot be drawn into this kind of file", got=str(out), expected=expected, fix=fix)
        )
    if (not place.suffix and place.is_file()) or (place.suffix and place.is_dir()):
        kind = "a file stands where a folder is wanted" if place.is_file() else "a folder stands where a file is wanted"
        raise OptionsError(Problem(what=kind, where=str(out), fix="choose another name"))
    if place.suffix.lower() != _PAGE:
        require("matplotlib", needed_by="drawing", extra="plots")


def render(modality: Modality, rows: Sequence[Shown], out: str | Path | Console, title: str) -> list[Path]:
    """Draw rows into files, each of which appears whole or not at all, or into the terminal.

    Args:
        modality: Reads them.
        rows: At least one.
        out: A .png: all rows on a sheet. A .html: a page. A folder: a page, and each row as a picture of its own. A console.
        title: What stands above the page.

    Returns:
        The files.

    Raises:
        MissingExtraError: matplotlib is wanted and not installed.
        OptionsError: Nothing can be drawn there.
        UnknownNameError: Nobody has said how rows of the modality are drawn.
    """
    check_out(out)
    renderer = renderer_of(modality)
    if not isinstance(out, str | Path):
        show(renderer, rows, out)
        return []
    place = Path(out)
    if place.suffix:
        return [_written(place, _FORMS[place.suffix.lower()](renderer, rows, title))]
    files = {_INDEX: page(renderer, rows, title)}
    files |= {f"row-{shown.row:06d}.png": sheet(renderer, [shown]) for shown in rows}
    place.mkdir(parents=True, exist_ok=True)
    return [_written(place / name, content) for name, content in files.items()]


def show(renderer: Renderer, rows: Sequence[Shown], console: Console) -> None:
    """Draw rows in the terminal, as compactly as it can."""
    from rich.columns import Columns
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    styles = {True: "bold green", False: "bold red", None: "bold"}
    cells = []
    for shown in rows:
        said = caption(shown)
        told = Text(said.headline(60), styles[said.right])
        if said.bars:
            told.append(f"  {100 * said.bars[0][1]:.0f} %", "dim")
        told.append(f"  row {shown.row:,}", "dim")
        raw = [] if shown.raw is None else [renderer.terminal(shown.raw, console.width - 2)]
        cells.append(Padding(Group(told, *raw), (0, 1, 1, 0)))
    console.print(Columns(cells, padding=(0, 1)))


def _written(path: Path, content: bytes) -> Path:
    with atomic_file(path) as file:
        file.write(content)
    return path
