"""Answered rows as a PNG file, drawn with matplotlib, which is imported when something is drawn."""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from regraft.registry import require
from regraft.rendering.renderer import BARS, Box, Caption, Renderer, Shown, caption, cut

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 150
_TITLE_IN, _BAR_IN, _GAP_IN, _MARGIN_IN = 0.27, 0.155, 0.16, 0.12
_SHEET_IN = 11.0
_CHARACTER_IN = 0.066  # of a title; of a bar less
COLOURS = {True: "#2f7d4f", False: "#b3392f", None: "#22303c"}
"""Colour of an answer that is right, wrong, or neither is known."""


def sheet(renderer: Renderer, rows: Sequence[Shown]) -> bytes:
    """Return rows side by side on one picture, PNG.

    Args:
        renderer: Of their modality.
        rows: At least one.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", needed_by="drawing", extra="plots")
    from matplotlib.figure import Figure

    across = max(1, min(len(rows), int((_SHEET_IN - _GAP_IN) / (renderer.width_in + _GAP_IN))))
    down = math.ceil(len(rows) / across)
    captions = [caption(shown) for shown in rows]
    bars = max((len(said.bars) for said in captions), default=0)
    cell_in = renderer.width_in + _GAP_IN, _TITLE_IN + renderer.height_in + 0.05 + bars * _BAR_IN + _GAP_IN
    size = across * cell_in[0] - _GAP_IN + 2 * _MARGIN_IN, down * cell_in[1] - _GAP_IN + 2 * _MARGIN_IN
    figure = Figure(figsize=size, dpi=_DPI)
    for place, (shown, said) in enumerate(zip(rows, captions, strict=True)):
        left = _MARGIN_IN + (place % across) * cell_in[0]
        top = size[1] - _MARGIN_IN - (place // across) * cell_in[1]
        _cell(figure, (left, top), renderer, shown, said)
    return _png(figure)


def alone_on_page(renderer: Renderer, raw: Any) -> str:
    """Return a raw value, without an answer, as PNG inside an HTML page."""
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(alone(renderer, raw)).decode()}">'


def alone(renderer: Renderer, raw: Any) -> bytes:
    """Return a raw value, without an answer, PNG."""
    require("matplotlib", needed_by="drawing", extra="plots")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(renderer.width_in * 1.25, renderer.height_in * 1.25), dpi=_DPI)
    renderer.draw(figure, (0.02, 0.02, 0.96, 0.96), raw)
    return _png(figure)


def _cell(figure: Figure, corner: tuple[float, float], renderer: Renderer, shown: Shown, said: Caption) -> None:
    left, top = corner
    width = renderer.width_in
    title = figure.add_axes(_box(figure, left, top - _TITLE_IN, width, _TITLE_IN))
    title.set_axis_off()
    fitting = int(width / _CHARACTER_IN)
    style: dict[str, Any] = {"fontsize": 8.5, "fontweight": "bold", "color": COLOURS[said.right]}
    row = f"row {shown.row:,}"
    title.text(0.0, 0.45, said.headline(max(8, fitting - len(row))), va="center", ha="left", parse_math=False, **style)
    title.text(1.0, 0.45, row, va="center", ha="right", fontsize=6.5, color="#8a949e")
    below = top - _TITLE_IN - renderer.height_in
    if shown.raw is not None:
        renderer.draw(figure, _box(figure, left, below, width, renderer.height_in), shown.raw)
    for number, (name, share) in enumerate(said.bars[:BARS]):
        axes = figure.add_axes(_box(figure, left, below - 0.05 - (number + 1) * _BAR_IN, width, _BAR_IN * 0.92))
        axes.set_axis_off()
        axes.barh([0.5], [1.0], height=1.0, color="#eef1f4")
        axes.barh([0.5], [share], height=1.0, color="#a9c4de")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.text(0.02, 0.46, cut(name, fitting - 4), va="center", ha="left", fontsize=6.8, parse_math=False)
        axes.text(0.98, 0.46, f"{100 * share:.1f} %", va="center", ha="right", fontsize=6.8)


def _box(figure: Figure, left: float, bottom: float, width: float, height: float) -> Box:
    across, down = figure.get_size_inches()
    return left / across, bottom / down, width / across, height / down


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # A letter that no font here has is drawn as a box: no reason to stop or to tell on every row.
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing from font")
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
