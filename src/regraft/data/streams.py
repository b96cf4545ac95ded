"""Bytes and text out of a file, decompressed on the way, in blocks; what is missing, truncated or not text is refused here."""

from __future__ import annotations

import codecs
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.errors import DataError, Problem, nearest

if TYPE_CHECKING:
    import pyarrow as pa

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
"""Suffix of a compressed text file -> name of the codec."""

BLOCK_BYTES = 2**20
SAMPLE_BYTES = 2**18

_MAGIC = {
    b"\x1f\x8b": ("a gzip file", "let its name end in .gz"),
    b"\x28\xb5\x2f\xfd": ("a zstd file", "let its name end in .zst"),
    b"PAR1": ("a Parquet file", "let its name end in .parquet"),
    b"ARROW1": ("an Arrow file", "let its name end in .arrow"),
    b"PK\x03\x04": ("a zip archive (or an Excel workbook)", "unpack it, or save the sheet as CSV UTF-8"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook or Word document", "save the sheet as CSV UTF-8"),
    b"%PDF": ("a PDF document", "extract the text to a CSV or JSON lines file"),
    b"SQLite format 3": ("an SQLite database", "export the table as CSV"),
    b"\x89PNG": ("a PNG picture", "give a table of rows"),
    b"BZh": ("a bzip2 file", "unpack it, or compress it with gzip"),
    b"\xfd7zXZ": ("an xz file", "unpack it, or compress it with gzip"),
}
_TEXT_CONTROLS = frozenset(b"\t\n\r\f\x0b\x08\x1b\x1a")


@dataclass(frozen=True)
class LongLine:
    """Stand in for a line that was not kept.

    Args:
        size_bytes: How long it was.
        quotes: How many double quotes it held.
    """

    size_bytes: int
    quotes: int


def compression_of(path: Path) -> str | None:
    """Return the codec that the suffix of a file asks for."""
    return COMPRESSIONS.get(path.suffix.lower())


def stands(path: Path) -> bool:
    """Return whether something stands at a path; a name that no file can have (too long) is no error."""
    try:
        return path.exists()
    except OSError:
        return False


def require_file(path: Path) -> None:
    """Refuse what is not a readable, non-empty, regular file.

    Raises:
        DataError: It is missing, empty, a folder, a device, or not ours to read.
    """
    where = str(path)
    if not path.exists():
        found = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else []
        fix = f"did you mean {' or '.join(repr(name) for name in found)}?" if found else "check the path"
        raise DataError(Problem(what="the file does not exist", where=where, fix=fix))
    if not path.is_file():
        raise DataError(
            Problem(
                what="this is not a regular file",
                where=where,
                expected="a file that can be read more than once",
                fix="write the rows to a file first",
            )
        )
    if not os.access(path, os.R_OK):
        raise DataError(Problem(what="the file cannot be read", where=where, fix="give yourself permission to read it"))
    if path.stat().st_size == 0:
        raise DataError(Problem(what="the file is empty", where=where, got="0 bytes", fix="check what should have written it"))


def open_bytes(path: Path) -> pa.NativeFile:
    """Open a file for reading bytes, decompressed if its name says that it is compressed."""
    import pyarrow as pa

    return pa.input_stream(str(path), compression=compression_of(path))


def byte_blocks(path: Path, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file.

    Raises:
        DataError: The compressed stream ends early or is damaged.
    """
    with open_bytes(path) as stream:
        while True:
            try:
                block = stream.read(size)
            except OSError as error:
                raise DataError(_damaged(path, error)) from error
            if not block:
                return
            yield block


def first_bytes(path: Path, size: int = SAMPLE_BYTES) -> tuple[bytes, bool]:
    """Return the beginning of a text file; a compressed one is read through once, so that a truncated one is refused now.

    Returns:
        At most `size` bytes, and whether they are the whole file.

    Raises:
        DataError: It is missing, empty, truncated, damaged, or its first bytes are those of a binary format.
    """
    require_file(path)
    head, total = b"", 0
    for block in byte_blocks(path):
        head += block[: size - len(head)]
        total += len(block)
        if total > size and compression_of(path) is None:
            break
    if not head:
        raise DataError(Problem(what="the file is empty", where=str(path), got="0 bytes after unpacking", fix="write it again"))
    for magic, (kind, fix) in _MAGIC.items():
        if head.startswith(magic):
            raise DataError(Problem(what="the file is not text", where=str(path), got=f"the first bytes of {kind}", fix=fix))
    return head, total == len(head)


def require_text(head: bytes, path: Path) -> None:
    """Refuse bytes that no text holds (after UTF-16 was ruled out).

    Raises:
        DataError: There are zero bytes, or control characters beyond what text has.
    """
    zeros = head.count(0)
    controls = sum(byte < 32 and byte not in _TEXT_CONTROLS for byte in head[:65536])
    if zeros or controls > 0.02 * min(len(head), 65536):
        got = f"{zeros} zero bytes" if zeros else f"{controls} control characters"
        raise DataError(
            Problem(
                what="the file is binary, not text",
                where=str(path),
                got=f"{got} in the first {len(head)} bytes",
                expected="text in UTF-8 or UTF-16",
                fix="give a CSV, TSV, JSON lines, Parquet or Arrow file",
            )
        )


def text_blocks(path: Path, encoding: str) -> Iterator[str]:
    """Yield the text of a file; a byte that does not decode becomes a lone surrogate, so that its row can be found.

    Args:
        path: The file.
        encoding: A Python codec name.

    Raises:
        DataError: UTF-16 or UTF-32 that breaks off (their errors cannot be kept to one row).
    """
    decoder = codecs.getincrementaldecoder(encoding)(errors="surrogateescape")
    position = 0
    try:
        for block in byte_blocks(path):
            yield decoder.decode(block)
            position += len(block)
        rest = decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise DataError(
            Problem(
                what=f"the file is not {encoding.upper()} all the way through",
                where=f"{path}, near byte {position + error.start}",
                got=error.reason,
                fix="save it again as UTF-8",
            )
        ) from error
    if rest:
        yield rest


def text_lines(blocks: Iterator[str], newline: str, limit_bytes: int) -> Iterator[str | LongLine]:
    """Yield lines with their line ends; a longer one than the limit is dropped while it is read and stands as a `LongLine`.

    Args:
        blocks: Consecutive pieces of text.
        newline: The character that ends a line.
        limit_bytes: Most bytes of a line, counted as UTF-8.
    """
    rest = ""
    skipped = quotes = 0
    for block in blocks:
        lines = io.StringIO(rest + block, newline=newline).readlines()
        rest = "" if not lines or lines[-1].endswith(newline) else lines.pop()
        if skipped and lines:
            yield LongLine(skipped + utf8_size(lines[0]), quotes + lines.pop(0).count('"'))
            skipped = quotes = 0
        for line in lines:
            if 4 * len(line) > limit_bytes and utf8_size(line) > limit_bytes:
                yield LongLine(utf8_size(line), line.count('"'))
            else:
                yield line
        if skipped or len(rest) > limit_bytes:
            skipped += utf8_size(rest)
            quotes += rest.count('"')
            rest = ""
    if skipped or utf8_size(rest) > limit_bytes:
        yield LongLine(skipped + utf8_size(rest), quotes + rest.count('"'))
    elif rest:
        yield rest


def utf8_size(text: str) -> int:
    """Return how many bytes a text takes in UTF-8; undecodable bytes count as one each."""
    return len(text.encode("utf-8", "surrogateescape"))


def _damaged(path: Path, error: OSError) -> Problem:
    if "runcated" in str(error):
        return Problem(
            what="the compressed file is truncated: it ends before its data end",
            where=str(path),
            got=f"{path.stat().st_size} bytes",
            fix="copy or download it again",
        )
    return Problem(
        what=f"the file cannot be unpacked as {compression_of(path) or 'plain bytes'}",
        where=str(path),
        got=str(error),
        fix="check that its name says how it is compressed, or copy it again",
    )
