"""Rows of a table as columns and values."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any, Self

from regraft.rendering.renderer import Box, Piece, Renderer, columns_of, cut, named

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

_LINES, _LINE_IN = 12, 0.146
_SMALL = 6.8
_NAME, _VALUE = 20, 24
_TERMINAL_LINES = 30
_KEPT_CELLS, _KEPT_NAME, _KEPT_CHARACTERS = 24, 60, 400


class TableRenderer(Renderer):
    """Show rows of a table."""

    width_in = 2.9
    height_in = _LINES * _LINE_IN

    @classmethod
    def of(cls, modality: Any) -> Self:
        """Return a renderer with as many lines as the modality reads columns."""
        made = cls()
        made.lines = max(1, min(_LINES, len(modality.columns) or _LINES))
        made.height_in = made.lines * _LINE_IN
        return made

    lines = _LINES

    def draw(self, figure: Figure, box: Box, raw: Any) -> None:
        """Write the first columns below each other, values beside them."""
        axes = figure.add_axes(box)
        axes.set_axis_off()
        pairs = _pairs(raw, self.lines, _NAME, _VALUE)
        for number, (name, value) in enumerate(pairs):
            height = 1.0 - (number + 0.5) / self.lines
            if number % 2:
                axes.axhspan(height - 0.5 / self.lines, height + 0.5 / self.lines, color="#f1f3f5", linewidth=0)
            axes.text(0.02, height, name, fontsize=_SMALL, va="center", color="#5a6570", parse_math=False)
            axes.text(0.46, height, value, fontsize=_SMALL, va="center", parse_math=False)
        axes.set(xlim=(0, 1), ylim=(0, 1))

    def html(self, raw: Any) -> str:
        """Return a row as a small table."""
        pairs = _pairs(raw, 200, 80, 200)
        cells = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in pairs)
        return f"<table>{cells}</table>"

    def pieces(self, raw: Any, most_bytes: int) -> list[Piece]:
        """Return the first columns with their values, long ones cut."""
        every = list(columns_of(raw).items())
        listed = every[:_KEPT_CELLS]
        room = max(_VALUE, min(_KEPT_CHARACTERS, most_bytes // (4 * max(1, len(listed)))))
        cells = [
            [cut(named(str(name)), _KEPT_NAME), "–" if value is None else cut(named(value), room)] for name, value in listed
        ]
        return [{"cells": cells, "left_out": len(every) - len(listed)}]

    def terminal(self, raw: Any, columns: int) -> Table:
        """Return a row as names and values."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(box=None, show_header=False, pad_edge=False, width=min(columns, 60))
        for name, value in _pairs(raw, _TERMINAL_LINES, 28, 40):
            table.add_row(f"[dim]{escape(name)}[/dim]", escape(value))
        return table


def _pairs(raw: Any, lines: int, name_characters: int, value_characters: int) -> list[tuple[str, str]]:
    """Return names and values as texts, the last line saying how many are left out."""
    every = [
        (cut(named(str(name)), name_characters), "–" if value is None else cut(named(value), value_characters))
        for name, value in columns_of(raw).items()
    ]
    return every if len(every) <= lines else [*every[: lines - 1], (f"and {len(every) - lines + 1} more columns", "")]
