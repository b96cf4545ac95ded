"""Find out how a text file is encoded; anything but UTF-8 and UTF-16 is offered, never assumed."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from encodings.aliases import aliases
from pathlib import Path

from regraft.data.streams import require_text
from regraft.errors import DataError, Problem, did_you_mean

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


_WESTERN = frozenset("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿŒœŠšŽž€‘’“”–—…•«»°£©®™§¡¿\xa0")


def _western(text: str) -> float:
    """Letters with accents stand alone between plain ones."""
    before = " " + text
    good = [
        char in _WESTERN and not (b > "\x7f" and b.isalpha()) for b, char in zip(before, text, strict=False) if char > "\x7f"
    ]
    return sum(good) / len(good)


def _cyrillic(text: str) -> float:
    """A capital begins a word; a wrong Cyrillic codec puts capitals inside."""
    before = " " + text
    pairs = [(b, char) for b, char in zip(before, text, strict=False) if char > "\x7f"]
    return sum("а" <= char <= "я" or ("А" <= char <= "Я" and not b.isalpha()) for b, char in pairs) / len(pairs)


def _japanese(text: str) -> float:
    """Syllable signs stand between the Chinese ones; without them it is not Japanese."""
    beyond = [char for char in text if char > "\x7f"]
    kana = sum("\u3040" <= char <= "\u30ff" for char in beyond)
    return (kana + sum(map(_is_han, beyond))) / len(beyond) if kana > 0.25 * len(beyond) else 0.0


def _korean(text: str) -> float:
    beyond = [char for char in text if char > "\x7f"]
    return sum("\uac00" <= char <= "\ud7a3" for char in beyond) / len(beyond)


def _chinese(text: str) -> float:
    beyond = [char for char in text if char > "\x7f"]
    return sum(map(_is_han, beyond)) / len(beyond)


def _is_han(char: str) -> bool:
    return "\u4e00" <= char <= "\u9fa5" or char in "，。：；？！、《》「」"


# Codec -> how much a text that was read with it looks like what it is used for (0 to 1). The first sure one wins.
_CANDIDATES: dict[str, Callable[[str], float]] = {
    "cp1252": _western,
    "cp1251": _cyrillic,
    "koi8-r": _cyrillic,
    "shift_jis": _japanese,
    "euc_jp": _japanese,
    "euc_kr": _korean,
    "gb18030": _chinese,
    "big5": _chinese,
}
_SURE = 0.8


def find_encoding(head: bytes, path: Path, given: str | None) -> tuple[str, str]:
    """Return the codec to read a file with, and the sentence that says how it was found.

    Args:
        head: The first bytes of the file.
        path: The file, for messages.
        given: What the user said; believed, apart from a byte order mark that is skipped.

    Returns:
        A Python codec name, and a note.

    Raises:
        DataError: The codec is unknown, the file is binary, or it is neither UTF-8 nor UTF-16 and nobody said what it is.
    """
    if given is not None:
        codec = _codec(given)
        marked = codec == "utf-8" and head.startswith(codecs.BOM_UTF8)
        return ("utf-8-sig" if marked else codec), f"encoding {codec}, as given"
    for mark, codec in _BOMS:
        if head.startswith(mark):
            return codec, f"encoding {codec.removesuffix('-sig').upper()}, from its byte order mark"
    unmarked = _unmarked_utf16(head)
    if unmarked:
        return unmarked, f"encoding {unmarked.upper()}, from its zero bytes (no byte order mark)"
    require_text(head, path)
    wrong, right = _utf8_counts(head)
    if wrong > right:
        raise DataError(_not_utf8(head, path))
    if wrong:
        return "utf-8", f"encoding UTF-8, though {wrong} bytes at the beginning are not (their rows count as bad)"
    return "utf-8", "encoding UTF-8"


def _codec(name: str) -> str:
    try:
        info = codecs.lookup(name)
    except LookupError:
        info = None
    if info is None or not info._is_text_encoding:
        raise DataError(
            Problem(
                what=f"there is no text encoding '{name}'",
                where="data.encoding",
                fix=did_you_mean(name, sorted({alias.replace("_", "-") for alias in [*aliases, *aliases.values()]})),
            )
        )
    return info.name


def _unmarked_utf16(head: bytes) -> str:
    pairs = len(head) // 2
    if pairs < 4:
        return ""
    even, odd = head[: 2 * pairs : 2].count(0), head[1 : 2 * pairs : 2].count(0)
    codec = (
        "utf-16-le"
        if odd > 0.4 * pairs and even < 0.1 * odd
        else "utf-16-be"
        if even > 0.4 * pairs and odd < 0.1 * even
        else ""
    )
    if not codec:
        return ""
    text = head[: 2 * pairs].decode(codec, "replace")
    printable = sum(char.isprintable() or char in "\r\n\t" for char in text)
    return codec if printable > 0.98 * len(text) else ""


def _utf8_counts(head: bytes) -> tuple[int, int]:
    """Return how many bytes are not UTF-8 and how many characters beyond ASCII are."""
    if head.isascii():  # most files; counting takes longer than reading them
        return 0, 0
    text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(head)
    wrong = sum("\ud800" <= char <= "\udfff" for char in text)
    return wrong, sum(char > "\x7f" for char in text) - wrong


def _not_utf8(head: bytes, path: Path) -> Problem:
    detected, text = _best_guess(head)
    start = next(i for i, byte in enumerate(head) if byte > 0x7F)
    line = head[:start].count(b"\n") + 1
    sample = " ".join(text[max(0, start - 30) : start + 30].split())
    also = " (latin-1 reads the same)" if not any(0x80 <= byte <= 0x9F for byte in head) and detected == "cp1252" else ""
    return Problem(
        what=f"the file is not UTF-8; it looks like {detected}{also}",
        where=f"{path}, line {line}, byte {start}",
        got=f"byte 0x{head[start]:02x}; read as {detected}: '{sample}'",
        expected="UTF-8 (with or without byte order mark) or UTF-16",
        fix=f"confirm with data.encoding={detected} (--set data.encoding={detected}), or save the file as UTF-8",
    )


def _best_guess(head: bytes) -> tuple[str, str]:
    best, best_text, best_score = "latin-1", head.decode("latin-1"), 0.0
    for codec, likeness in _CANDIDATES.items():
        try:
            text = codecs.getincrementaldecoder(codec)("strict").decode(head)
        except UnicodeDecodeError:
            continue
        score = likeness(text)
        if score > best_score:
            best, best_text, best_score = codec, text, score
        if score > _SURE:
            break
    return best, best_text
