"""One file of ragged rows: written once, then read only.

    head (64 bytes)   magic, format, bytes a position
    data              the positions of all rows, end to end, little end first
    index             digests (R, 16), lengths (R), checksums of the rows (R)
    tail (64 bytes)   magic, format, bytes a position, R, bytes of data, checksum of the index, checksum of the tail

Everything that a reader believes has a checksum: CRC-32 (zlib), 2.5 GB/s a core here (blake2b 0.6, sha256 1.5) and certain to
find a flipped byte. It guards against disks, not against people: who may write the folder may write anything.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import numpy as np

from regraft.data.kept import NewFile, file_name
from regraft.training.cache.options import FORMAT
from regraft.types import Array

SUFFIX = ".ragged"
_HEAD, _TAIL = struct.Struct("<8sII48x"), struct.Struct("<8sIIQQII24x")
_HEAD_MAGIC, _TAIL_MAGIC = b"RGRAGGED", b"RGRAGEND"
_INDEX_BYTES = 24
_CHECKED = 36  # bytes of the tail before its own checksum


class SegmentError(Exception):
    """A file that is not a whole segment of this format; its text says why."""

    def __init__(self, why: str, *, damaged: bool) -> None:
        super().__init__(why)
        self.damaged = damaged


@dataclass
class Segment:
    """A finished file, open for reading.

    Args:
        path: Where it was found.
        file: Open, unbuffered; it outlives the name.
        digests_R16: Which rows.
        lengths_R: Positions of each row.
        checks_R: Checksum of each row.
        starts_R: First byte of each row in the file.
        size_bytes: Of the file.
    """

    path: Path
    file: FileIO
    digests_R16: Array
    lengths_R: Array
    checks_R: Array
    starts_R: Array
    size_bytes: int
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, start: int, into: memoryview) -> None:
        """Fill `into` with the bytes from `start` on.

        Raises:
            OSError: The disk fails, or the file has become shorter.
        """
        done = 0
        with self._lock:  # place and reading are two steps
            self.file.seek(start)
            while done < len(into):
                count = self.file.readinto(into[done:])
                if not count:
                    raise OSError(errno.EIO, "the file has become shorter", str(self.path))
                done += count

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def open_segment(path: Path, position_bytes: int) -> Segment:
    """Open a file and read its index.

    Args:
        path: The file.
        position_bytes: Bytes that a position must have.

    Raises:
        SegmentError: It is damaged, foreign, or of a newer format.
        OSError: It cannot be read, or is gone.
    """
    file = FileIO(path, "r")
    try:
        size = os.fstat(file.fileno()).st_size
        rows, data_bytes, index = _index(file, size, position_bytes)
    except BaseException:
        file.close()
        raise
    lengths_R = np.frombuffer(index, "<u4", rows, 16 * rows).astype(np.int64)
    checks_R = np.frombuffer(index, "<u4", rows, 20 * rows)
    bytes_R = lengths_R * position_bytes
    if int(bytes_R.sum()) != data_bytes:
        file.close()
        raise SegmentError("its index does not add up", damaged=True)
    digests_R16 = np.frombuffer(index, np.uint8, 16 * rows).reshape(rows, 16)
    starts_R = _HEAD.size + np.cumsum(bytes_R) - bytes_R
    return Segment(path, file, digests_R16, lengths_R, checks_R, starts_R, size)


def rows_in(path: Path) -> int:
    """Return how many rows a file says it holds; 0 where it does not say."""
    try:
        with path.open("rb") as file:
            file.seek(-_TAIL.size, os.SEEK_END)
            magic, _, _, rows, *_ = _TAIL.unpack(file.read(_TAIL.size))
    except (OSError, struct.error):
        return 0
    return int(rows) if magic == _TAIL_MAGIC else 0


def _index(file: FileIO, size: int, position_bytes: int) -> tuple[int, int, bytes]:
    head = file.read(_HEAD.size) or b""
    if len(head) < _HEAD.size or not head.startswith(_HEAD_MAGIC):
        raise SegmentError("it is not a file of features", damaged=True)
    _, version, width = _HEAD.unpack(head)
    if version > FORMAT:
        raise SegmentError(f"its format {version} is newer than {FORMAT}", damaged=False)
    tail = _read_at(file, size - _TAIL.size, _TAIL.size)
    if size < _HEAD.size + _TAIL.size or not tail.startswith(_TAIL_MAGIC):
        raise SegmentError("it is truncated", damaged=True)
    _, tail_version, tail_width, rows, data_bytes, index_check, tail_check = _TAIL.unpack(tail)
    if tail_check != zlib.crc32(tail[:_CHECKED]) or (tail_version, tail_width) != (version, width):
        raise SegmentError("its end is damaged", damaged=True)
    if size != _HEAD.size + data_bytes + rows * _INDEX_BYTES + _TAIL.size:
        raise SegmentError("it is truncated", damaged=True)
    if width != position_bytes:
        raise SegmentError(f"its positions have {width} bytes, not {position_bytes}", damaged=False)
    index = _read_at(file, _HEAD.size + data_bytes, rows * _INDEX_BYTES)
    if zlib.crc32(index) != index_check:
        raise SegmentError("its index is damaged", damaged=True)
    return rows, data_bytes, index


def _read_at(file: FileIO, start: int, size: int) -> bytes:
    file.seek(max(0, start))
    parts: list[bytes] = []
    while size > 0:
        part = file.read(size)
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def checksums(data: memoryview, sizes: Sequence[int]) -> list[int]:
    """Return the checksum of each row.

    Args:
        data: The bytes of the rows, end to end.
        sizes: Bytes of each row.
    """
    found, start = [], 0
    for size in sizes:
        found.append(zlib.crc32(data[start : start + size]))
        start += size
    return found


class SegmentWriter:
    """Write one file; until `publish` nobody sees it.

    Args:
        folder: Of the key.
        position_bytes: Bytes a position.

    Raises:
        OSError: The disk is full, or refuses.
    """

    def __init__(self, folder: Path, position_bytes: int) -> None:
        self._new = NewFile(folder)
        self._position_bytes = position_bytes
        self._digests: list[Array] = []
        self._lengths: list[Array] = []
        self._checks: list[list[int]] = []
        self.data_bytes = 0
        try:
            self._new.write(_HEAD.pack(_HEAD_MAGIC, FORMAT, position_bytes))
        except OSError:
            self.discard()
            raise

    def append(self, digests_B16: Array, lengths_B: Array, data: memoryview) -> None:
        """Append rows.

        Args:
            digests_B16: Which rows.
            lengths_B: Positions of each.
            data: Their bytes, end to end.

        Raises:
            OSError: The disk is full, or refuses.
        """
        self._new.write(data)
        self._checks.append(checksums(data, (lengths_B * self._position_bytes).tolist()))
        self._digests.append(np.array(digests_B16, dtype=np.uint8))
        self._lengths.append(lengths_B.astype("<u4"))
        self.data_bytes += len(data)

    def publish(self) -> Segment:
        """Finish the file, make it durable, give it its name, and return it open for reading.

        Raises:
            OSError: The disk is full, or refuses; nothing is left behind.
        """
        digests_R16, lengths_R = np.concatenate(self._digests), np.concatenate(self._lengths)
        checks_R = np.concatenate([np.asarray(part, dtype="<u4") for part in self._checks])
        index = digests_R16.tobytes() + lengths_R.tobytes() + checks_R.tobytes()
        facts = (FORMAT, self._position_bytes, len(lengths_R), self.data_bytes, zlib.crc32(index))
        tail = _TAIL.pack(_TAIL_MAGIC, *facts, 0)
        tail = _TAIL.pack(_TAIL_MAGIC, *facts, zlib.crc32(tail[:_CHECKED]))
        try:
            self._new.write(index)
            self._new.write(tail)
        except OSError:
            self.discard()
            raise
        path = self._new.publish(file_name(SUFFIX))
        lengths_R = lengths_R.astype(np.int64)
        bytes_R = lengths_R * self._position_bytes
        starts_R = _HEAD.size + np.cumsum(bytes_R) - bytes_R
        size = _HEAD.size + self.data_bytes + len(index) + len(tail)
        return Segment(path, self._new.file, digests_R16, lengths_R, checks_R, starts_R, size)

    def discard(self) -> None:
        """Leave nothing behind."""
        self._new.discard()
