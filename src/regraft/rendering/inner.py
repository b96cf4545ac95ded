"""Which renderer shows rows of a modality: its own, else that of the modality which it is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from regraft.rendering import RENDERERS
from regraft.rendering.renderer import Box, Piece, Renderer

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from regraft.modalities.modality import Modality


def renderer_of(modality: Modality) -> Renderer:
    """Return what shows rows that a modality reads.

    Args:
        modality: The one that its artifact holds.

    Raises:
        UnknownNameError: Nobody has said how its rows are drawn, and it is not made of another modality.
    """
    if modality.name in RENDERERS or not getattr(modality, "over", ""):
        return RENDERERS.get(modality.name).of(modality)
    return InnerRenderer(modality, RENDERERS.get(modality.over).of(modality))


class InnerRenderer(Renderer):
    """Show rows as the modality that theirs is made of is shown: the first of its values that a row becomes.

    Args:
        modality: Reads the rows.
        shown: Shows values of the modality that it is made of.
    """

    def __init__(self, modality: Modality, shown: Renderer) -> None:
        self.width_in, self.height_in = shown.width_in, shown.height_in
        self._modality, self._shown = modality, shown

    def draw(self, figure: Figure, box: Box, raw: Any) -> None:
        """Draw what a raw value becomes."""
        self._shown.draw(figure, box, self._inner(raw))

    def html(self, raw: Any) -> str:
        """Return what a raw value becomes as HTML."""
        return self._shown.html(self._inner(raw))

    def pieces(self, raw: Any, most_bytes: int) -> list[Piece]:
        """Return what a raw value becomes as JSON."""
        return self._shown.pieces(self._inner(raw), most_bytes)

    def terminal(self, raw: Any, columns: int) -> RenderableType:
        """Return what a raw value becomes for the terminal."""
        return self._shown.terminal(self._inner(raw), columns)

    def _inner(self, raw: Any) -> Any:
        """Return the value that is shown; of a row that cannot be read, what stands there."""
        return raw if self._modality.problem(raw) else self._modality.inner([raw], self._modality.columns)[0]
