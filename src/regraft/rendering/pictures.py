"""Pictures as they are, small ones with their pixels showing."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from regraft.modalities import pictures
from regraft.rendering.renderer import Box, Piece, Renderer

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image
    from rich.text import Text

_SIDE = 384
_COARSE = 96
_KEPT_SIDE, _LEAST_SIDE, _QUALITY = 160, 20, 72
_HALF = "▀"


class PictureRenderer(Renderer):
    """Show pictures."""

    width_in = 1.7
    height_in = 1.5

    def draw(self, figure: Figure, box: Box, raw: Any) -> None:
        """Draw a picture in the middle of its box."""
        import numpy as np

        picture = _small(raw, _SIDE)
        axes = figure.add_axes(box)
        axes.imshow(np.asarray(picture), interpolation="nearest" if max(picture.size) <= _COARSE else "antialiased")
        axes.set_axis_off()

    def html(self, raw: Any) -> str:
        """Return a picture as PNG inside the page."""
        picture = _small(raw, _SIDE)
        content = base64.b64encode(pictures.png(picture)).decode()
        coarse = ' class="coarse"' if max(picture.size) <= _COARSE else ""
        return f'<img{coarse} alt="" src="data:image/png;base64,{content}">'

    def pieces(self, raw: Any, most_bytes: int) -> list[Piece]:
        """Return a small picture: with every pixel if it is coarse, else as JPEG of at most 160 pixels a side."""
        side = _KEPT_SIDE
        while True:
            picture = _small(raw, side)
            coarse = max(picture.size) <= _COARSE
            content = pictures.png(picture) if coarse else _jpeg(picture)
            if len(content) * 4 // 3 <= most_bytes or side <= _LEAST_SIDE:
                break
            side //= 2
        kind = "png" if coarse else "jpeg"
        source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
        return [{"picture": source, "width": picture.width, "height": picture.height}]

    def terminal(self, raw: Any, columns: int) -> Text:
        """Return a picture in half blocks, two pixels a character."""
        from PIL.Image import Resampling
        from rich.color import Color
        from rich.style import Style
        from rich.text import Text

        picture = pictures.pixels(raw, 3)
        width = min(columns, 28)
        height = max(2, min(2 * width, round(width * picture.height / picture.width)) // 2 * 2)
        picture = picture.resize((width, height), Resampling.LANCZOS)
        text = Text()
        for y in range(0, height, 2):
            for x in range(width):
                above, below = (Color.from_rgb(*_colour(picture, x, y + step)) for step in (0, 1))
                text.append(_HALF, Style(color=above, bgcolor=below))
            text.append("\n" if y + 2 < height else "")
        return text


def _small(raw: Any, side: int) -> Image:
    picture = pictures.pixels(raw, 3)
    picture.thumbnail((side, side))
    return picture


def _jpeg(picture: Image) -> bytes:
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=_QUALITY, optimize=True)
    return file.getvalue()


def _colour(picture: Image, x: int, y: int) -> tuple[int, int, int]:
    red, green, blue = picture.getpixel((x, y))  # type: ignore[misc]
    return int(red), int(green), int(blue)
