"""The samples `spoken-language` and `spoken-digits`: the announcements of a telephone exchange in five languages.

Clips of 8 kHz, one voice a language (but English and Spanish are the same woman); the name of a clip says what is said, and the
same announcement has the same name in every language. `spoken-language` is split by that name, so that no announcement is on
both sides. Left out: silence, signals, what is longer than a minute, and clips that two languages share. In `spoken-digits` a
digit is said once a language: Spanish is the test, the four others are there to learn from.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from regraft.data.samples.fetched import Archive, Fetched, deb_members, write_rows, write_splits

_VERSION = "1.6.1-1"
_DIGESTS = {
    "en": "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
    "es": "9283a09a6d56fccdcc2bcfe86c48f0f844289cfbd46a3184d8785a6f7f569903",
    "fr": "8d4e1bc32ed5ba7fbda40841ca1825ed20cc6232724a473c90f8bb0e53e6073e",
    "it": "5a26638089e134b8ac39363fe249c5c93c50cd8bfdc9b2499ae61ec4a35e2fcb",
    "ru": "ccbfaebfa450b7a9ddf644ae0f3d1e9017d5df7c0aebe816e946345589d38201",
}
_NO_SPEECH = frozenset({"beep", "beeperr", "ascending-2tone", "descending-2tone", "tt-monkeys"})
_SILENCE, _DIGITS = "silence", tuple(f"digits/{digit}" for digit in range(10))
_LONGEST_BYTES = 960_000  # a minute
_TEST_LANGUAGE = "es"

_ARCHIVES = tuple(
    Archive(
        name=f"asterisk-core-sounds-{language}-wav_{_VERSION}_all.deb",
        sha256=digest,
        command=("apt-get", "download", f"asterisk-core-sounds-{language}-wav={_VERSION}"),
    )
    for language, digest in _DIGESTS.items()
)
LANGUAGE = Fetched(
    name="spoken-language", archives=_ARCHIVES, terms="CC-BY-SA-3.0", make="regraft.data.samples.spoken:make_language"
)
DIGITS = Fetched(name="spoken-digits", archives=_ARCHIVES, terms="CC-BY-SA-3.0", make="regraft.data.samples.spoken:make_digits")


def make_language(archives: Sequence[Path], folder: Path) -> None:
    """Write the clips with their language, split by announcement."""
    rows = list(_clips(archives))
    languages: dict[str, set[str]] = {}
    for row in rows:
        languages.setdefault(row["digest"], set()).add(row["language"])
    counts = Counter(row["digest"] for row in rows)
    kept = [row for row in rows if len(languages[row["digest"]]) == 1 and counts[row["digest"]] == 1]
    table = pa.table({name: [row[name] for row in kept] for name in ("audio", "language", "prompt")})
    write_splits(folder, table, [row["prompt"] for row in kept])


def make_digits(archives: Sequence[Path], folder: Path) -> None:
    """Write the ten digits of every language."""
    rows = [row for row in _clips(archives) if row["prompt"] in _DIGITS]
    for split, is_test in (("train", False), ("test", True)):
        part = [row for row in rows if (row["language"] == _TEST_LANGUAGE) is is_test]
        digits = [PurePosixPath(row["prompt"]).name for row in part]
        columns: Mapping[str, list[object]] = {name: [row[name] for row in part] for name in ("audio", "language")}
        write_rows(folder / f"{split}.parquet", pa.table({**columns, "digit": digits}))


def _clips(archives: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield the clips in which somebody speaks: WAV file, language, what is said by its name, digest."""
    for language, archive in zip(_DIGESTS, archives, strict=True):
        for name, content in sorted(deb_members(archive)):
            path = PurePosixPath(name)
            if path.suffix != ".wav":
                continue
            said = path.relative_to(next(parent for parent in path.parents if parent.parent.name == "sounds")).with_suffix("")
            if said.parts[0] != _SILENCE and said.name not in _NO_SPEECH and len(content) <= _LONGEST_BYTES:
                digest = hashlib.sha256(content).hexdigest()
                yield {"audio": content, "language": language, "prompt": str(said), "digest": digest}
