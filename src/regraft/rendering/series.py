"""Series as lines, gaps where nothing was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.modalities import measurements
from regraft.rendering.renderer import Box, Renderer, sparks

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.text import Text

_CHANNELS = 8
_SMALL = 6.5
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

    def terminal(self, raw: Any, columns: int) -> Text:
        """Return each channel as a line of blocks."""
        from rich.text import Text

        found = measurements.read(raw)
        text = Text()
        for number, channel in enumerate(found.values_TK[:, :_CHANNELS].T):
            text.append("\n" if number else "").append(sparks(channel.tolist(), min(columns, 72)), _COLOURS[number])
        return text
