"""Rows of several parts: the parts below each other, each shown as its own modality is."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from regraft.rendering.figure import alone_on_page
from regraft.rendering.inner import renderer_of
from regraft.rendering.renderer import Box, Piece, Renderer, cut, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Group

    from regraft.modalities.fusion import Part

_NAME_IN = 0.2
_SMALL = 6.8
_MISSING = "–"
_CHARACTERS = 40


class FusedRenderer(Renderer):
    """Show rows of several parts.

    Args:
        parts: Of the modality, each with the renderer of its own.
    """

    def __init__(self, parts: Sequence[tuple[Part, Renderer]]) -> None:
        self.parts = tuple(parts)
        self.width_in = max(renderer.width_in for _, renderer in parts)
        self.height_in = sum(renderer.height_in + _NAME_IN for _, renderer in parts)

    @classmethod
    def of(cls, modality: Any) -> Self:
        """Return the renderer of rows whose parts are those of a modality."""
        return cls([(part, renderer_of(part.modality)) for part in modality.parts])

    def draw(self, figure: Figure, box: Box, raw: Any) -> None:
        """Draw each part under its name, a missing one as a dash."""
        left, bottom, width, height = box
        top, inch = bottom + height, height / self.height_in
        for part, renderer in self.parts:
            name = figure.add_axes((left, top - _NAME_IN * inch, width, _NAME_IN * inch))
            name.set_axis_off()
            given = part.raw(raw)
            told = _named(part) + (f": {_MISSING}" if given is None else "")
            name.text(0.0, 0.4, told, fontsize=_SMALL, va="center", color="#5a6570", parse_math=False)
            top -= (_NAME_IN + renderer.height_in) * inch
            if given is not None:
                renderer.draw(figure, (left, top, width, renderer.height_in * inch), given)

    def html(self, raw: Any) -> str:
        """Return the parts under their names."""
        return "".join(self._part(*part, raw) for part in self.parts)

    def pieces(self, raw: Any, most_bytes: int) -> list[Piece]:
        """Return the parts with their names, the room shared out evenly; a part that is missing has no pieces."""
        room = most_bytes // max(1, len(self.parts))
        found: list[Piece] = []
        for part, renderer in self.parts:
            given = part.raw(raw)
            found.append({"named": _named(part), "pieces": [] if given is None else renderer.pieces(given, room)})
        return found

    def terminal(self, raw: Any, columns: int) -> Group:
        """Return the parts below each other."""
        from rich.console import Group
        from rich.text import Text

        shown: list[Any] = []
        for part, renderer in self.parts:
            given = part.raw(raw)
            told = Text(_named(part), "dim")
            shown += [told.append(f": {_MISSING}")] if given is None else [told, renderer.terminal(given, columns)]
        return Group(*shown)

    def _part(self, part: Part, renderer: Renderer, raw: Any) -> str:
        given = part.raw(raw)
        name = html.escape(_named(part))
        if given is None:
            return f"<p><small>{name}: {_MISSING}</small></p>"
        return f"<div><small>{name}</small>{renderer.html(given) or alone_on_page(renderer, given)}</div>"


def _named(part: Part) -> str:
    return cut(plain(part.name), _CHARACTERS)
