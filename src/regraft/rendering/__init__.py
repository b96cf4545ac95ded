"""Answered rows as people look at them: pictures, spectrograms, lines, tables, texts; as PNG, HTML and in the terminal."""

from typing import TYPE_CHECKING

from regraft.registry import Registry

if TYPE_CHECKING:
    from regraft.rendering.renderer import Renderer

RENDERERS: "Registry[type[Renderer]]" = Registry(
    "renderers",
    {
        "text": "regraft.rendering.texts:TextRenderer",
        "image": "regraft.rendering.pictures:PictureRenderer",
        "audio": "regraft.rendering.sounds:SoundRenderer",
        "series": "regraft.rendering.series:SeriesRenderer",
        "table": "regraft.rendering.tables:TableRenderer",
        "text-pair": "regraft.rendering.tables:TableRenderer",
        "fusion": "regraft.rendering.fused:FusedRenderer",
    },
    extra="plots",
)

__all__ = ["RENDERERS"]
