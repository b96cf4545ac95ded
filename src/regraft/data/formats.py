"""Which reader or writer a file name asks for."""

from __future__ import annotations

from pathlib import Path

from regraft.data import READERS, WRITERS
from regraft.data.options import DataOptions
from regraft.data.reader import Reader
from regraft.data.streams import COMPRESSIONS
from regraft.data.writer import Writer
from regraft.errors import DataError, Problem


def format_suffix(path: Path) -> tuple[str, str]:
    """Return the suffix that names the format and the one that names the compression ("" if none), both in small letters."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    return (suffixes[-1] if suffixes else ""), packed


def reader_suffixes() -> dict[str, str]:
    """Return suffix -> registered name of the reader that takes it."""
    return {suffix: name for name in READERS for suffix in READERS.get(name).suffixes}


def writer_suffixes() -> dict[str, str]:
    """Return suffix -> registered name of the writer that makes it."""
    return {suffix: name for name in WRITERS for suffix in WRITERS.get(name).suffixes}


def is_readable(path: Path) -> bool:
    """Return whether some reader takes files with this name."""
    return format_suffix(path)[0] in reader_suffixes()


def reader_for(path: str | Path, options: DataOptions) -> Reader:
    """Return the reader of a file, chosen by its suffix.

    Args:
        path: The file.
        options: How to read it.

    Raises:
        DataError: No reader takes the suffix, or the file cannot be read.
    """
    path = Path(path)
    suffix, packed = format_suffix(path)
    known = reader_suffixes()
    if suffix not in known:
        raise DataError(_unknown(path, suffix, list(known), "read"))
    kind = READERS.get(known[suffix])
    if packed and kind.typed and not _is_text(suffix):
        raise DataError(_packed(path, suffix, packed))
    return kind(path, options)


def writer_for(path: str | Path) -> Writer:
    """Return the writer of a file, chosen by its suffix; nothing is written before its `with` block begins.

    Raises:
        DataError: No writer makes the suffix.
    """
    path = Path(path)
    suffix, packed = format_suffix(path)
    known = writer_suffixes()
    if suffix not in known:
        raise DataError(_unknown(path, suffix, list(known), "write"))
    if packed and not _is_text(suffix):
        raise DataError(_packed(path, suffix, packed))
    return WRITERS.get(known[suffix])(path)


def _is_text(suffix: str) -> bool:
    from regraft.data.write import TextWriter

    writer = writer_suffixes().get(suffix)
    return writer is not None and issubclass(WRITERS.get(writer), TextWriter)


def _unknown(path: Path, suffix: str, known: list[str], verb: str) -> Problem:
    return Problem(
        what=f"cannot {verb} this kind of file",
        where=str(path),
        got=f"the suffix '{suffix}'" if suffix else "a name without a suffix",
        expected=f"one of {', '.join(known)}; text formats also with {' or '.join(COMPRESSIONS)}",
        fix="let the name of the file say what it is, or convert it",
    )


def _packed(path: Path, suffix: str, packed: str) -> Problem:
    return Problem(
        what=f"{suffix} files are compressed inside, not outside",
        where=str(path),
        got=f"'{suffix}{packed}'",
        fix=f"unpack it and use '{path.name.removesuffix(packed)}'",
    )
