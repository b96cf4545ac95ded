"""The files of one key, opened, looked up and verified.

U wanted rows, E entries of all files.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from regraft.data.kept import touch
from regraft.training.cache.budget import Note
from regraft.training.cache.segment import SUFFIX, Segment, SegmentError, checksums, open_segment
from regraft.training.cache.wanted import Wanted, find
from regraft.types import Array

_READ_BYTES = 8 * 2**20


class Found:
    """What of the wanted rows is in files.

    Args:
        folder: Of the key; it need not exist. None where nothing on disk is to be used.
        rows: What is wanted.
        position_bytes: Bytes a position.
        note: Called with one line for everything that had to be left out.
    """

    def __init__(self, folder: Path | None, rows: Wanted, position_bytes: int, note: Note) -> None:
        self.segments = list(_opened(folder, position_bytes, note)) if folder else []
        self._rows, self._position_bytes, self._note = rows, position_bytes, note
        counts = [len(segment.lengths_R) for segment in self.segments]
        self._digests_E16 = _joined([segment.digests_R16 for segment in self.segments], np.zeros((0, 16), np.uint8))
        self._lengths_E = _joined([segment.lengths_R for segment in self.segments], np.zeros(0, np.int64))
        self._checks_E = _joined([segment.checks_R for segment in self.segments], np.zeros(0, np.uint32))
        self._starts_E = _joined([segment.starts_R for segment in self.segments], np.zeros(0, np.int64))
        self._segments_E = np.repeat(np.arange(len(counts)), counts)
        self._usable_E = np.ones(len(self._lengths_E), dtype=bool)
        self._entries_U = find(rows, self._digests_E16, self._lengths_E, self._usable_E)

    @property
    def there(self) -> Array:
        """Which rows are in files (U,)."""
        return self._entries_U >= 0

    @property
    def numbers(self) -> Array:
        """Number of the file that holds a row, -1 where none does (U,)."""
        return np.where(self.there, self._segments_E[self._entries_U] if len(self._segments_E) else -1, -1)

    @property
    def starts(self) -> Array:
        """First byte of a row in its file, 0 where none holds it (U,)."""
        return np.where(self.there, self._starts_E[self._entries_U] if len(self._starts_E) else 0, 0)

    @property
    def paths(self) -> frozenset[Path]:
        """Files that hold at least one wanted row."""
        return frozenset(self.segments[i].path for i in np.unique(self.numbers) if i >= 0)

    def verify(self, into: memoryview | None) -> None:
        """Read every row that is there once and hold it against its checksum; a damaged one is looked for elsewhere.

        Args:
            into: The bytes of all wanted rows end to end, filled with those that are there; read and forgotten if not given.
        """
        verified_U = np.zeros(len(self._entries_U), dtype=bool)
        damaged = 0
        while True:
            todo = np.flatnonzero(self.there & ~verified_U)
            if not len(todo):
                break
            bad = self._check(todo, into)
            verified_U[todo] = True
            verified_U[bad] = False
            self._usable_E[self._entries_U[bad]] = False
            damaged += len(bad)
            self._entries_U = find(self._rows, self._digests_E16, self._lengths_E, self._usable_E)
        if damaged:
            self._note(f"cache: {damaged:,} damaged rows were found by their checksum; what is missing is computed again")

    def use(self, *, keep_open: bool) -> None:
        """Note that the files were used; close those that are not read any more."""
        used = set(np.unique(self.numbers).tolist())
        for number, segment in enumerate(self.segments):
            if number in used:
                touch(segment.path)
            if not keep_open or number not in used:
                segment.close()

    def close(self) -> None:
        """Close all files."""
        for segment in self.segments:
            segment.close()

    def _check(self, todo: Array, into: memoryview | None) -> Array:
        """Return those of the rows `todo` whose bytes are not those that were written."""
        width = self._position_bytes
        order = todo[np.lexsort((self.starts[todo], self.numbers[todo]))]
        segments, starts = self.numbers[order], self.starts[order]
        sizes, targets = self._rows.lengths_U[order] * width, self._rows.starts_U[order] * width
        expected = self._checks_E[self._entries_U[order]]
        largest = int(sizes.max(initial=0))
        buffer = memoryview(bytearray(0 if into is not None else _READ_BYTES + largest))
        bad: list[Array] = []
        for first, last in runs(segments, starts, sizes, targets if into is not None else None):
            size = int(sizes[first:last].sum())
            target = buffer[:size] if into is None else into[targets[first] : targets[first] + size]
            try:
                self.segments[segments[first]].read(int(starts[first]), target)
                got = np.asarray(checksums(target, sizes[first:last].tolist()), dtype=np.uint32)
                bad.append(order[first:last][got != expected[first:last]])
            except OSError:
                bad.append(order[first:last])
        return np.concatenate(bad)


def runs(segments_B: Array, starts_B: Array, sizes_B: Array, targets_B: Array | None = None) -> Iterator[tuple[int, int]]:
    """Yield stretches of rows that can be read at once: end to end in one file (and where they go), of bounded size.

    Args:
        segments_B: File of each row.
        starts_B: First byte of each row in its file.
        sizes_B: Bytes of each row.
        targets_B: Where each row goes, if that is not end to end anyway.
    """
    if not len(starts_B):
        return
    ends_B = np.cumsum(sizes_B)
    cut = (segments_B[1:] != segments_B[:-1]) | (starts_B[1:] != starts_B[:-1] + sizes_B[:-1])
    cut |= (ends_B - sizes_B)[1:] // _READ_BYTES != (ends_B - sizes_B)[:-1] // _READ_BYTES
    if targets_B is not None:
        cut |= targets_B[1:] != targets_B[:-1] + sizes_B[:-1]
    edges = [0, *(np.flatnonzero(cut) + 1).tolist(), len(starts_B)]
    yield from itertools.pairwise(edges)


def _opened(folder: Path, position_bytes: int, note: Note) -> Iterator[Segment]:
    """Open the files of a folder in the order in which they were made; say what cannot be used, and remove what nobody can."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        return
    for name in names:
        path = folder / name
        if path.suffix != SUFFIX:
            continue
        try:
            yield open_segment(path, position_bytes)
        except SegmentError as error:
            note(f"cache: {path} is left out, {error}; its rows are computed again")
            if error.damaged:
                with contextlib.suppress(OSError):
                    path.unlink()
        except FileNotFoundError:  # pruned meanwhile
            continue
        except OSError as error:
            note(f"cache: {path} cannot be read ({error.strerror}); its rows are computed again")


def _joined(parts: list[Array], empty: Array) -> Array:
    return np.concatenate(parts) if parts else empty
