"""How files end that hold one row each. No pyarrow: answering a picture or a recording needs only this."""

from __future__ import annotations

KINDS = {
    "image": frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}),
    "audio": frozenset({".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3"}),
}
"""Name of the column -> how its files end."""
