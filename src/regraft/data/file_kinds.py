"""How files end that hold one row each. No pyarrow: answering a picture needs only this."""

from __future__ import annotations

KINDS = {"image": frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})}
"""Name of the column -> how its files end."""
