"""Pictures of any allowed kind as rows of pixels, safely: header before pixels, a limit on both, nothing fetched.

A raw picture is the bytes of a file (PNG, JPEG, WebP, BMP, GIF, TIFF) or of a .npy array, the same in base64 or as a `data:`
address, the hub's {"bytes", "path"}, an array (H, W) or (H, W, 1 | 3 | 4), an image of Pillow, or (in Python alone) a `Path`.
Text that is a path is opened only where it stands in the user's own data, see `Modality.opened`.
"""

from __future__ import annotations

import base64
import binascii
import io
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.data.arrays import array_bytes
from regraft.data.file_kinds import KINDS
from regraft.types import Array

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = KINDS["image"]
MAX_PIXELS = 50_000_000
"""Pixels of a picture, at most: 150 MB once it is decoded."""
MAX_BYTES = 256 * 2**20
_NPY, _PNG = b"\x93NUMPY", b"\x89PNG\r\n\x1a\n"
_ADDRESS = "data:"
_LONGEST_PATH = 4096
_CHANNELS = (1, 3, 4)
_DEPTH_16 = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
_PALETTES = frozenset({"P", "PA"})
_PLAIN = frozenset({"L", "RGB"})
_GREY = _DEPTH_16 | {"1", "L", "LA", "La"}
_FLOATS = frozenset({"F"})
_DRAFT = 64
_UNTURNED = frozenset({"PNG", "JPEG", "BMP", "GIF"})
_TURNED = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})


def is_path(raw: object) -> bool:
    """Return whether a text is the path of a picture and not a picture in base64."""
    return isinstance(raw, str) and len(raw) < _LONGEST_PATH and "." in raw and Path(raw).suffix.lower() in SUFFIXES


def locate(path: str, folder: Path | None) -> str:
    """Return the absolute path of a picture that data name.

    Args:
        path: As the data hold it.
        folder: Where the data lie; None for data in memory, whose paths start where Python runs.

    Raises:
        ValueError: There is no such file, or a relative path leads out of the folder.
    """
    given = Path(path).expanduser()
    root = (folder or Path()).resolve()
    found = (given if given.is_absolute() else root / given).resolve()
    if not given.is_absolute() and not found.is_relative_to(root):
        raise ValueError(f"the path of the picture leads out of the folder of the data: {path}")
    if not found.is_file():
        raise ValueError(f"there is no file '{path}'" + ("" if given.is_absolute() else f" in {root}"))
    return str(found)


def read_file(path: Path) -> bytes:
    """Return the bytes of a picture's file.

    Raises:
        ValueError: It cannot be read, or is too large.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"the file of the picture is too large: {path.stat().st_size:,} bytes, at most {MAX_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"the file of the picture cannot be read: {error.strerror or error}") from None


def unreadable(raw: Any) -> str:
    """Return why a picture cannot be decoded, or an empty string."""
    try:
        picture = open_picture(raw)
        # A JPEG is decoded whole but small: what is cut off or broken shows, at a quarter of the time.
        picture.draft(None, (_DRAFT, _DRAFT))
        _decode(picture)
        _whole_numbers(picture)
    except ValueError as error:
        return str(error)
    return ""


def pixels(raw: Any, channels: int, *, narrow: bool = False) -> Image:
    """Return a picture upright, decoded, as 8-bit grey or RGB: transparent places are white, 16 bits are rounded to 8.

    Args:
        raw: Any raw picture.
        channels: 1 or 3.
        narrow: Whether a grey picture may stay grey where 3 channels are wanted: all three would be the same.

    Raises:
        ValueError: It cannot be decoded; says why.
    """
    picture = open_picture(raw)
    _decode(picture)
    _whole_numbers(picture)
    if picture.mode not in _PLAIN or _may_be_turned(picture, raw):
        picture = _upright_and_plain(picture)
    mode = "L" if channels == 1 or (narrow and picture.mode == "L") else "RGB"
    return picture if picture.mode == mode and picture is not raw else picture.convert(mode)


def _upright_and_plain(picture: Image) -> Image:
    """Return a decoded picture the right way up, without a palette, a transparency or 16 bits."""
    from PIL import Image, ImageOps

    if picture.mode in _DEPTH_16:
        deep = np.clip(np.asarray(picture).astype(np.int64), 0, 65535)
        return Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    if picture.getexif():
        picture = ImageOps.exif_transpose(picture)
    if picture.mode in _PALETTES and "transparency" not in picture.info:
        picture = picture.convert("RGB")
    if picture.mode not in _PLAIN and ("A" in picture.getbands() or "a" in picture.getbands() or picture.mode in _PALETTES):
        above = picture.convert("RGBA")
        picture = Image.new("RGB", above.size, (255, 255, 255))
        picture.paste(above, mask=above.getchannel("A"))
    return picture


def values(picture: Image) -> Array:
    """Return the bytes of a grey or RGB picture (H, W, 1 | 3), uint8, read-only."""
    width, height = picture.size
    return np.frombuffer(picture.tobytes(), np.uint8).reshape(height, width, len(picture.mode))


def open_picture(raw: Any) -> Image:
    """Return a picture whose header was read and whose pixels were not.

    Raises:
        ValueError: It is none, of a format that is not allowed, or too large.
    """
    from PIL import Image

    if isinstance(raw, np.ndarray):
        return _from_array(raw)
    if isinstance(raw, Image.Image):
        return _within(raw)
    content = content_of(raw)
    if content.startswith(_NPY):
        return _from_array(_read_array(content))
    try:
        return _within(_opened(content))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"the picture has too many pixels, at most {MAX_PIXELS:,} are taken") from None
    except (OSError, SyntaxError, struct.error, OverflowError, MemoryError, KeyError, IndexError, TypeError):
        kinds = ", ".join(FORMATS)
        raise ValueError(f"this is not a picture of a known format ({kinds}), or its header is damaged") from None


def _opened(content: bytes) -> Image:
    """Return what Pillow makes of a header. Asking each of its readers takes longer than reading a small PNG file."""
    from PIL import Image
    from PIL.PngImagePlugin import PngImageFile

    file = io.BytesIO(content)
    return PngImageFile(file) if content.startswith(_PNG) else Image.open(file, formats=FORMATS)


def content_of(raw: Any) -> bytes:
    """Return the bytes of a raw picture that has any.

    Raises:
        ValueError: It is of another kind, or text that is not base64.
    """
    if isinstance(raw, bytes):
        return raw
    if isinstance(raw, Mapping) and isinstance(raw.get("bytes"), bytes):
        raw = raw["bytes"]
    if isinstance(raw, Path):
        return read_file(raw)
    if isinstance(raw, bytes | bytearray | memoryview):
        return bytes(raw)
    if isinstance(raw, str):
        return _from_text(raw)
    kind = type(raw).__name__
    raise ValueError("there is no picture" if raw is None else f"a picture is expected, got {kind} ({str(raw)[:40]})")


def is_grey(raw: Any) -> bool:
    """Return whether a picture that can be decoded has no colours; its header is looked at, not its pixels."""
    return open_picture(raw).mode in _GREY


def as_text(raw: Any) -> str:
    """Return a picture as a `data:` address, which is text and JSON."""
    if isinstance(raw, str):
        return raw
    content = array_bytes(raw) if hasattr(raw, "__array_interface__") else content_of(raw)
    return f"{_ADDRESS};base64,{base64.b64encode(content).decode()}"


def png(picture: Image) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


def _from_text(text: str) -> bytes:
    if is_path(text) or "://" in text[:40]:
        raise ValueError("a path or an address is not opened here: send the picture itself, its bytes in base64")
    body = text.partition(",")[2] if text.startswith(_ADDRESS) else text
    try:
        content = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the text is not a picture in base64") from None
    if not content:
        raise ValueError("there is no picture: the text is empty")
    return content


def _read_array(content: bytes) -> Array:
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if dtype.hasobject or int(np.prod(shape, dtype=object)) * dtype.itemsize > len(content):
            raise ValueError
        file.seek(0)
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except (ValueError, EOFError, OSError, TypeError):
        raise ValueError("the array of the picture is damaged") from None


def _from_array(array: Array) -> Image:
    from PIL import Image

    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    deep = array.dtype == np.uint16
    kinds = (np.dtype(np.uint8), np.dtype(np.bool_), np.dtype(np.uint16))
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in _CHANNELS)
    if array.dtype not in kinds or not shaped or not array.size:
        got = f"{array.dtype} {list(array.shape)}"
        raise ValueError(
            f"an array of a picture is (height, width) or (height, width, 1 | 3 | 4), uint8, uint16 or bool, got {got}"
        )
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ValueError(f"the picture has too many pixels, at most {MAX_PIXELS:,} are taken")
    if deep:
        array = ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return Image.fromarray(array.astype(np.uint8) * 255 if array.dtype == np.bool_ else np.ascontiguousarray(array))


def _within(picture: Image) -> Image:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"the picture has too many pixels: {width} x {height}, at most {MAX_PIXELS:,} are taken")
    if not width or not height:
        raise ValueError("the picture has no pixels")
    return picture


def _may_be_turned(picture: Image, raw: Any) -> bool:
    """Return whether a picture may say which side is up; asking takes as long as opening a small one."""
    return picture is raw or picture.format not in _UNTURNED or not _TURNED.isdisjoint(picture.info)


def _whole_numbers(picture: Image) -> None:
    if picture.mode in _FLOATS:
        raise ValueError("the picture holds floating-point numbers; 8 or 16 bits a channel are expected")


def _decode(picture: Image) -> None:
    """Decode the pixels of the first frame; decoders fail each in its own way."""
    try:
        picture.load()
    except (
        OSError,
        SyntaxError,
        ValueError,
        struct.error,
        OverflowError,
        MemoryError,
        KeyError,
        IndexError,
        TypeError,
    ) as error:
        said = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(f"the picture is damaged or cut off ({said})") from None
