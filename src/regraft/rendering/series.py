"""Series as lines, gaps where nothing was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.modalities import measurements
from regraft.rendering.renderer import Box, Piece, Renderer, sparks
from regraft.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.text import Text

_CHANNELS = 8
_SMALL = 6.5
_KEPT_POINTS = 200
_COLOURS = ("#30506e", "#c8553d", "#588b5b", "#8d6a9f", "#c99a2e", "#3d9aa1", "#7a5c46", "#7f7f7f")


class SeriesRenderer(Renderer):
    """Show series."""

    width_in = 2.9
    height_in = 1.5

    def draw(self, figure: Figure, box: Box, raw: Any) -> None:
        """Draw up to eight channels over time, or over the number of the step."""
        found = measurements.read(raw)
        left, bottom, width, height = box
        axes = figure.add_axes((left + 0.14 * width, bottom + 0.16 * height, 0.84 * width, 0.8 * height))
        times_T = np.arange(len(found)) if found.times_T is None else found.times_T
        mark = "." if len(found) < 3 else ""
        for channel, colour in zip(found.values_TK[:, :_CHANNELS].T, _COLOURS, strict=False):
            axes.plot(times_T, channel, color=colour, linewidth=0.9, marker=mark)
        axes.margins(x=0.0 if len(found) > 1 else 0.05)
        axes.tick_params(labelsize=_SMALL, length=2, pad=1.5)
        axes.locator_params(axis="both", nbins=5)
        axes.spines[["top", "right"]].set_visible(False)
        if found.channels > _CHANNELS:
            told = f"{_CHANNELS} of {found.channels} channels"
            axes.text(0.99, 0.97, told, transform=axes.transAxes, ha="right", va="top", fontsize=_SMALL)

    def pieces(self, raw: Any, most_bytes: int) -> list[Piece]:
        """Return up to eight channels, each as the means of at most 200 parts of its time."""
        found = measurements.read(raw)
        lines = [_means(channel) for channel in found.values_TK[:, :_CHANNELS].T]
        return [{"lines": lines, "channels": found.channels, "steps": len(found)}]

    def terminal(self, raw: Any, columns: int) -> Text:
        """Return each channel as a line of blocks."""
        from rich.text import Text

        found = measurements.read(raw)
        text = Text()
        for number, channel in enumerate(found.values_TK[:, :_CHANNELS].T):
            text.append("\n" if number else "").append(sparks(channel.tolist(), min(columns, 72)), _COLOURS[number])
        return text


def _means(values_T: FloatArray) -> list[float | None]:
    """Return the mean of each part of a channel, to four digits; None where nothing was measured."""
    parts = np.array_split(np.asarray(values_T, dtype=float), min(_KEPT_POINTS, len(values_T)))
    means = [float(part[np.isfinite(part)].mean()) if np.isfinite(part).any() else None for part in parts]
    return [None if mean is None else float(f"{mean:.4g}") for mean in means]
