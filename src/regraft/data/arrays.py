"""Arrays as bytes that any column can hold: the .npy format, never a pickle. numpy only."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

_INDEXED = frozenset({"P", "PA"})


def array_bytes(value: Any) -> bytes:
    """Return an array, or a picture of Pillow, as the bytes of a .npy file.

    Raises:
        ValueError: It holds Python objects.
    """
    if getattr(value, "mode", "") in _INDEXED:
        value = value.convert("RGBA")  # its numbers are places in a palette
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(value), allow_pickle=False)
    return file.getvalue()
