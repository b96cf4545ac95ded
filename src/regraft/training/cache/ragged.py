"""Ragged rows of numbers by the digest of the row: computed once, shared by epochs, runs and processes.

    features = open_ragged(key, rows.digests, rows.lengths, (384,), options, note)
    for some in portions(features.missing):
        features.put(some, compute(some))
    features.finish()
    features.gather(np.array([17, 4]))        the positions of row 17, then those of row 4

Rows that are the same (equal digest and length) are held once. N rows, U different ones, P positions.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from regraft.data.kept import write_about
from regraft.errors import MachineError, Problem
from regraft.training.cache.bf16 import to_bf16
from regraft.training.cache.budget import Need, Note, choose_place
from regraft.training.cache.found import Found, runs
from regraft.training.cache.options import CacheKey, CacheOptions
from regraft.training.cache.segment import Segment, SegmentWriter
from regraft.training.cache.wanted import Wanted, spread, wanted
from regraft.types import Array, FloatArray

FEATURES = "features"
_SEGMENT_BYTES = 256 * 2**20
_ROW_OVERHEAD = 24
_DTYPES: dict[str, np.dtype[Any]] = {"fp32": np.dtype("<f4"), "bf16": np.dtype("<u2")}


@dataclass(frozen=True)
class Form:
    """What a position looks like.

    Args:
        shape: Its shape.
        dtype: Of its numbers: "<f4", or "<u2" for the upper halves of fp32 numbers.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def width(self) -> int:
        """Bytes of a position."""
        return prod(self.shape) * self.dtype.itemsize

    def empty(self, positions: int) -> Array:
        """Return room for so many positions."""
        return np.empty((positions, *self.shape), dtype=self.dtype)


def open_ragged(
    key: CacheKey, digests_N16: Array, lengths_N: Array, shape: Sequence[int], options: CacheOptions, note: Note
) -> Ragged | None:
    """Open the features of some rows.

    Args:
        key: Everything that changes them, beside the rows.
        digests_N16: One digest a row (`EncodedRows.digests`).
        lengths_N: Positions of each row; 1 for pooled features.
        shape: Shape of one position.
        options: What may be used.
        note: Called with one line that says where they are held and why, and with one for everything that was found damaged.

    Returns:
        The features, or None where they cannot be held: then they are computed whenever they are needed.
    """
    name = f"cache of {key.kind} features ({key.about}, {key.cut})"
    if not options.enabled:
        note(f"{name}: off: switched off by machine.cache.enabled")
        return None
    rows = wanted(digests_N16, lengths_N)
    form = Form(tuple(shape), _DTYPES[key.dtype])
    folder = options.place / FEATURES / key.digest
    found = Found(folder if options.disk_mb else None, rows, form.width, note)
    missing = int((rows.lengths_U * form.width + _ROW_OVERHEAD)[~found.there].sum())
    need = Need(total_bytes=rows.positions * form.width, missing_bytes=missing, found=found.paths)
    place = choose_place(need, options)
    if place.tier == "off":
        found.close()
        note(f"{name}: {place.why}")
        return None
    held = form.empty(rows.positions) if place.tier == "memory" else None
    found.verify(None if held is None else _bytes(held))
    found.use(keep_open=held is None)
    there = int(found.there[rows.entry_N].sum())
    note(f"{name}: {there:,} of {len(rows.entry_N):,} rows are there; {place.why}")
    files = _Files(folder, form.width, key.to_bytes()) if place.writes else None
    return Ragged(rows, found, held, files, form, note)


class _Files:
    """Where what is computed is written: files of bounded size, so that a killed run keeps all but the last of them."""

    def __init__(self, folder: Path, width: int, about: bytes) -> None:
        self._folder, self._width, self._about = folder, width, about
        self._writer: SegmentWriter | None = None
        self._entries: list[Array] = []

    def append(self, entries: Array, rows: Wanted, data: memoryview) -> tuple[Array, Segment] | None:
        """Write rows; return the rows of a file and the file if one was finished by it."""
        if self._writer is None:
            self._writer = SegmentWriter(self._folder, self._width)
            write_about(self._folder, self._about)
        self._writer.append(rows.digests_U16[entries], rows.lengths_U[entries], data)
        self._entries.append(entries)
        return self.publish() if self._writer.data_bytes >= _SEGMENT_BYTES else None

    def publish(self) -> tuple[Array, Segment] | None:
        """Finish the file that is being written, if there is one."""
        writer, entries = self._writer, self._entries
        if writer is None:
            return None
        self._writer, self._entries = None, []
        return np.concatenate(entries), writer.publish()

    def discard(self) -> None:
        """Leave nothing of the file that is being written."""
        if self._writer is not None:
            self._writer.discard()
            self._writer = None


class Ragged:
    """Features of N rows; made by `open_ragged`, to be closed.

    Attributes:
        tier: "memory" or "disk": where they are held; "off" once the disk gave up and memory is too small.
        dtype: "<f4", or "<u2" for the upper halves of fp32 numbers (`bf16.from_bf16`).
    """

    def __init__(
        self,
        rows: Wanted,
        found: Found,
        held: Array | None,
        files: _Files | None,
        form: Form,
        note: Note,
    ) -> None:
        self.tier = "disk" if held is None else "memory"
        self.dtype = form.dtype
        self._rows, self._held, self._form, self._note = rows, held, form, note
        self._files = files
        self._there_U = found.there.copy()  # was put or found
        self._ready_U = self._there_U.copy()  # can be gathered
        self._segments = found.segments if held is None else []
        self._segments_U, self._starts_U = found.numbers, found.starts
        self._release = weakref.finalize(self, _release, self._segments, files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.finish()
        self.close()

    def __len__(self) -> int:
        return len(self._rows.entry_N)

    @property
    def missing(self) -> Array:
        """Positions (rows), sorted, that have yet to be put; of rows that are the same only the first."""
        return np.sort(self._rows.rows_U[~self._there_U])

    def put(self, rows: Array, values_PD: FloatArray) -> bool:
        """Take the features of rows.

        Args:
            rows: Positions (B,) of the rows; what is there already stays as it is.
            values_PD: fp32, (P, *shape): the positions of the rows end to end, in the order of `rows`.

        Returns:
            Whether it is worth going on; False once the features can be held nowhere (the disk is full).

        Raises:
            ValueError: There are more or fewer positions than the rows have.
        """
        entries = self._rows.entry_N[np.asarray(rows, dtype=np.int64)]
        lengths = self._rows.lengths_U[entries]
        expected = (int(lengths.sum()), *self._form.shape)
        if values_PD.shape != expected:
            raise ValueError(f"values of shape {expected} are wanted, got {values_PD.shape}")
        if self.tier == "off":
            return False
        first = np.zeros(len(entries), dtype=bool)
        first[np.unique(entries, return_index=True)[1]] = True
        fresh = first & ~self._there_U[entries]
        if not fresh.all():
            starts = np.cumsum(lengths) - lengths
            values_PD = values_PD[spread(starts[fresh], lengths[fresh])]
            entries, lengths = entries[fresh], lengths[fresh]
        if not len(entries):
            return True
        values = to_bf16(values_PD) if self.dtype.itemsize == 2 else np.ascontiguousarray(values_PD, dtype=self.dtype)
        if self._held is not None:
            self._held[spread(self._rows.starts_U[entries], lengths)] = values
            self._ready_U[entries] = True
        self._there_U[entries] = True
        self._write(entries, _bytes(values))
        return self.tier != "off"

    def finish(self) -> bool:
        """Make durable what was put, for this run and the next ones.

        Returns:
            Whether the features can be gathered; False where the disk gave up.
        """
        if self._files is not None:
            try:
                self._read_from(self._files.publish())
            except OSError as error:
                self._give_up(error)
        return self.tier != "off"

    def gather(self, rows: Array) -> Array:
        """Return the features of rows.

        Args:
            rows: Positions (B,) of the rows.

        Returns:
            (P, *shape): the positions of the rows end to end, in the order of `rows`; the caller's own array.

        Raises:
            LookupError: A row has not been put and finished.
            MachineError: The disk fails, or the file was edited while it was read.
        """
        entries = self._rows.entry_N[np.asarray(rows, dtype=np.int64)]
        if not self._ready_U[entries].all():
            raise LookupError("some rows have not been put and finished")
        lengths = self._rows.lengths_U[entries]
        out = self._form.empty(int(lengths.sum()))
        if self._held is not None:
            starts = self._rows.starts_U[entries]
            if len(starts) and (starts[1:] == starts[:-1] + lengths[:-1]).all():  # a whole split in its order: one copy
                out[:] = self._held[starts[0] : starts[0] + len(out)]
            else:  # "clip" lets numpy write straight into `out`; no index is outside
                np.take(self._held, spread(starts, lengths), axis=0, out=out, mode="clip")
            return out
        self._read(entries, lengths * self._form.width, _bytes(out))
        return out

    def close(self) -> None:
        """Close the files; what was put and not finished is forgotten."""
        self._release()
        self._held = None
        self._ready_U[:] = False

    def _read(self, entries: Array, sizes: Array, out: memoryview) -> None:
        segments, starts = self._segments_U[entries], self._starts_U[entries]
        at = 0
        for first, last in runs(segments, starts, sizes):
            size = int(sizes[first:last].sum())
            segment = self._segments[segments[first]]
            try:
                segment.read(int(starts[first]), out[at : at + size])
            except OSError as error:
                raise MachineError(
                    Problem(
                        what="features on disk can no longer be read",
                        where=str(segment.path),
                        got=error.strerror or str(error),
                        fix="run the same command again: what is damaged is then computed anew",
                    )
                ) from error
            at += size

    def _write(self, entries: Array, data: memoryview) -> None:
        if self._files is None:
            return
        try:
            self._read_from(self._files.append(entries, self._rows, data))
        except OSError as error:
            self._give_up(error)

    def _read_from(self, finished: tuple[Array, Segment] | None) -> None:
        """Read rows from a finished file from now on, unless they are held in memory."""
        if finished is None:
            return
        entries, segment = finished
        if self._held is not None:
            segment.close()
            return
        self._segments_U[entries] = len(self._segments)
        self._starts_U[entries] = segment.starts_R
        self._segments.append(segment)
        self._ready_U[entries] = True

    def _give_up(self, error: OSError) -> None:
        """Go on without the disk: in memory if the features are held there, else not at all."""
        if self._files is not None:
            self._files.discard()
            self._files = None
        why = error.strerror or str(error)
        if self._held is None:
            self.tier = "off"
            self._note(f"cache: off: the disk gave up ({why}); the features are computed whenever they are needed")
        else:
            self._note(f"cache: in memory only: the disk gave up ({why}); the next run computes the features again")


def _bytes(values: Array) -> memoryview:
    """Return the bytes of an array that lies in one piece, without a copy."""
    view: memoryview = values.reshape(-1).view(np.uint8).data
    return view


def _release(segments: list[Segment], files: _Files | None) -> None:
    for segment in segments:
        segment.close()
    if files is not None:
        files.discard()
