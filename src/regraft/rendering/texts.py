"""Texts as paragraphs, long ones cut."""

from __future__ import annotations

import html
import unicodedata
from typing import TYPE_CHECKING, Any

from regraft.rendering.renderer import Box, Renderer, cut, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.text import Text

_LINES, _CHARACTERS = 9, 50
_PAGE_CHARACTERS, _TERMINAL_CHARACTERS = 1200, 300
_SMALL = 7.2


class TextRenderer(Renderer):
    """Show texts."""

    width_in = 2.9
    height_in = 1.35

    def draw(self, figure: Figure, box: Box, raw: Any) -> None:
        """Write the beginning of a text."""
        axes = figure.add_axes(box)
        axes.set_axis_off()
        lines = _wrapped(plain(str(raw))) or ["(no text)"]
        style: dict[str, Any] = {"fontsize": _SMALL, "va": "top", "linespacing": 1.25, "parse_math": False, "clip_on": True}
        axes.text(0.0, 0.97, "\n".join(lines), **style)
        axes.set(xlim=(0, 1), ylim=(0, 1))

    def html(self, raw: Any) -> str:
        """Return the beginning of a text as a paragraph."""
        return f"<p>{html.escape(cut(plain(str(raw)), _PAGE_CHARACTERS))}</p>"

    def terminal(self, raw: Any, columns: int) -> Text:
        """Return the beginning of a text."""
        from rich.text import Text

        return Text(cut(plain(str(raw)), _TERMINAL_CHARACTERS))


def _wrapped(text: str) -> list[str]:
    """Return the first lines of a text; letters of East Asia are twice as wide as others."""
    lines, line, wide = [], "", 0
    for word in text.split(" "):
        for piece in _pieces(word):
            width = _width(piece)
            if line and wide + width + 1 > _CHARACTERS:
                lines.append(line)
                line, wide = "", 0
            line, wide = (f"{line} {piece}", wide + width + 1) if line else (piece, width)
            if len(lines) == _LINES:
                return [*lines[:-1], lines[-1] + " …"]
    return [*lines, line] if line else lines


def _pieces(word: str) -> list[str]:
    """Return a word in pieces that fit into a line."""
    pieces, piece = [], ""
    for char in word:
        if piece and _width(piece + char) > _CHARACTERS:
            pieces.append(piece)
            piece = ""
        piece += char
    return [*pieces, piece]


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
