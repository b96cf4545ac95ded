"""Emoji as Noto draws them, 64 x 64: `emoji`, 1,911 with their names in English and in Chinese, a row a name, and
`emoji-categories`, the same with the English name alone, a row an emoji.

Rows say what they are of (`emoji`, its code points), in which language (`language`: en, zh) and in which of ten categories. The
split is by emoji, so that none is on both sides under another name; emoji that are drawn alike are of one (`emoji` is that of
the first). Skin tones and other variants are left out. Pictures: the images of Google in emoji-datasource; names: the short
names of Unicode CLDR in emojibase.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from regraft.data.samples.fetched import Archive, Fetched, tar_members, write_splits

LANGUAGES = ("en", "zh")
_PICTURES, _LIST = "img/google/64", "emoji.json"
_VARIANT = "FE0F"  # asks for a picture in place of a letter; the lists do not agree on where it stands

_ARCHIVES = (
    Archive(
        name="emoji-datasource-google-16.0.0.tgz",
        sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        command=("npm", "pack", "--silent", "emoji-datasource-google@16.0.0"),
    ),
    Archive(
        name="emojibase-data-17.0.0.tgz",
        sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        command=("npm", "pack", "--silent", "emojibase-data@17.0.0"),
    ),
)
_TERMS = "Apache-2.0 (pictures: Google), MIT (names: emojibase, from Unicode CLDR)"

SAMPLE = Fetched(name="emoji", archives=_ARCHIVES, terms=_TERMS, make="regraft.data.samples.emoji:make")
CATEGORIES = Fetched(
    name="emoji-categories", archives=_ARCHIVES, terms=_TERMS, make="regraft.data.samples.emoji:make_categories"
)


def make(archives: Sequence[Path], folder: Path) -> None:
    """Write a row for each name of each emoji, split by emoji."""
    _write(folder, _rows(archives, LANGUAGES))


def make_categories(archives: Sequence[Path], folder: Path) -> None:
    """Write a row for each emoji with a name in English, split by what is drawn."""
    _write(folder, _rows(archives, LANGUAGES[:1]))


def _write(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    table = pa.table({name: [row[name] for row in rows] for name in rows[0]})
    write_splits(folder, table, [row["emoji"] for row in rows])


def _rows(archives: Sequence[Path], languages: Sequence[str]) -> list[dict[str, Any]]:
    listed, pictures = _pictured(archives[0])
    names = _named(archives[1])
    rows: list[dict[str, Any]] = []
    first: dict[str, str] = {}
    for one in sorted(listed, key=lambda one: int(one["sort_order"])):
        code, picture = str(one["unified"]), pictures[str(one["image"])]
        same = first.setdefault(hashlib.sha256(picture).hexdigest(), code)
        for language in languages:
            name = names[language].get(_plain(code), "")
            row = {"picture": picture, "name": name, "language": language, "emoji": same, "category": one["category"]}
            rows += [row] if name else []
    return rows


def _pictured(archive: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Return the list of emoji that have a picture, and the pictures by file name."""
    listed: list[dict[str, Any]] = []
    pictures = {}
    with archive.open("rb") as file:
        for member, content in tar_members(file, "r:gz"):
            path = PurePosixPath(member)
            if str(path.relative_to("package").parent) == _PICTURES:
                pictures[path.name] = content
            elif str(path.relative_to("package")) == _LIST:
                listed = json.loads(content)
    return [one for one in listed if one["image"] in pictures], pictures


def _named(archive: Path) -> dict[str, dict[str, str]]:
    """Return language -> code points -> name."""
    found: dict[str, dict[str, str]] = {}
    with archive.open("rb") as file:
        for member, content in tar_members(file, "r:gz"):
            path = PurePosixPath(member)
            if path.name == "data.json" and path.parent.name in LANGUAGES:
                found[path.parent.name] = {_plain(one["hexcode"]): str(one["label"]) for one in json.loads(content)}
    return found


def _plain(code: str) -> str:
    """Return code points as they stand in every list."""
    return "-".join(point for point in code.upper().split("-") if point != _VARIANT)
