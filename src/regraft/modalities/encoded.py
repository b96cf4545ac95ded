"""Encoded rows of a whole split: ragged arrays laid end to end, in memory while they are small, memory-mapped when not."""

from __future__ import annotations

import copy
import errno
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, Protocol

import numpy as np

from regraft.errors import MachineError, Problem
from regraft.modalities.digests import DIGEST_BYTES, row_digests
from regraft.modalities.encoded_store import EncodedStore, StoredRows
from regraft.modalities.modality import Modality, is_count, padded
from regraft.types import Array, Batch, BatchRows

_MEMORY_BYTES = 256 * 2**20


class _Column:
    """Append arrays of one input, then read them as one; beyond a budget they lie in a nameless temporary file.

    The file has no name (or vanishes when it is closed), so that nothing is left behind however the process ends.
    """

    def __init__(self, first: Array) -> None:
        self.dtype = np.dtype(np.int32) if is_count(first.dtype) else first.dtype
        self.shape = first.shape[1:]
        self.parts: list[Array] = []
        self.rows = 0
        self.file: IO[bytes] | None = None

    def append(self, arrays: Sequence[Array]) -> int:
        """Take arrays (T, ...) in and return the bytes now held in memory for them."""
        part = np.concatenate(arrays).astype(self.dtype, copy=False)
        self.parts.append(part)
        self.rows += len(part)
        return part.nbytes

    def spill(self) -> None:
        """Move what is held in memory to the file."""
        if self.file is None:
            self.file = tempfile.TemporaryFile(prefix="regraft-encoded-")  # noqa: SIM115 - closed with the object
            weakref.finalize(self, self.file.close)
        for part in self.parts:
            self.file.write(np.ascontiguousarray(part).data)
        self.file.flush()
        self.parts = []

    def joined(self) -> Array:
        """Return everything as one array (P, ...)."""
        if self.file is None or not self.rows:
            return np.concatenate(self.parts) if self.parts else np.zeros((0, *self.shape), dtype=self.dtype)
        self.spill()
        mapped = np.memmap(self.file, dtype=self.dtype, mode="r", shape=(self.rows, *self.shape))
        self.file.close()  # the map keeps the bytes; with it they vanish
        return mapped


class SplitRows(BatchRows, Protocol):
    """Encoded rows of a split, however they are held."""

    modality: Modality
    dropped: int
    """Positions that were cut off."""
    truncated_rows: int
    """Rows that were cut."""


class EncodedRows:
    """Rows of one split, encoded once.

    Inputs whose first axis is the position are stored flat with offsets, so that a million rows cost their positions and not a
    million Python objects. Ids are held as int32 and handed out as int64, bytes stay bytes. Beyond `memory_bytes` the arrays
    move to a temporary file that vanishes with the object.

    Args:
        modality: Encodes and pads.
        chunks: The raw values, in chunks; none has a `problem`. With a store, a function that gives them whenever it is called.
        memory_bytes: Budget before the arrays move to disk.
        store: Where rows that are worth it are kept between runs.

    Attributes:
        digests: The digest of each raw value (N, 16), uint8.
        lengths: Positions of each row (N,).
        dropped: Positions that were cut off.
        truncated_rows: Rows that were cut.

    Raises:
        MachineError: The disk is full.
    """

    digests: Array
    lengths: Array
    _flat: Mapping[str, Array]

    def __init__(
        self,
        modality: Modality,
        chunks: Iterable[Sequence[Any]] | Callable[[], Iterable[Sequence[Any]]],
        memory_bytes: int = _MEMORY_BYTES,
        store: EncodedStore | None = None,
    ) -> None:
        self.modality = modality
        self.dropped = 0
        self.truncated_rows = 0
        self._columns: dict[str, _Column] = {}
        self._draws_NK: Array | None = None
        self._mapped = False
        if store is None:
            self._encode(chunks() if callable(chunks) else chunks, memory_bytes)
        elif callable(chunks):
            self._encode_or_recall(chunks, memory_bytes, store)
        else:
            raise TypeError("with a store, chunks are a function: they are looked at once for their digests and once to encode")
        self._starts = np.cumsum(self.lengths) - self.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def positions(self) -> int:
        """Number of real positions over all rows."""
        return int(self.lengths.sum())

    @property
    def on_disk(self) -> bool:
        """Whether the rows outgrew their budget and lie in a temporary file, or were found in a store and lie there."""
        return self._mapped or any(column.file is not None for column in self._columns.values())

    def batch(self, rows: Array, targets: Array | None = None) -> Batch:
        """Return the rows with these positions as one padded batch.

        Args:
            rows: Positions (B,) of rows in this split.
            targets: Targets of the whole split; the batch takes those of its rows.
        """
        rows = np.asarray(rows, dtype=np.int64)
        inputs, mask_BT = padded(self._flat, self._starts[rows], self.lengths[rows], self.modality.padding)
        if self._draws_NK is not None:
            inputs = self.modality.varied(inputs, self._draws_NK[rows])
        chosen = None if targets is None else targets[rows]
        return Batch(inputs=self.modality.ready(inputs), mask_BT=mask_BT, targets=chosen, rows_B=rows)

    def drawn(self, rng: np.random.Generator) -> EncodedRows:
        """Return the rows as one epoch of training sees them; the encoded rows themselves are shared.

        Every row has its own numbers, so that it is varied alike in whatever batch it stands.
        """
        if not self.modality.draws:
            return self
        made = copy.copy(self)
        made._draws_NK = rng.random((len(self), self.modality.draws))
        return made

    def _encode_or_recall(self, chunks: Callable[[], Iterable[Sequence[Any]]], memory_bytes: int, store: EncodedStore) -> None:
        digests = _joined([row_digests(chunk) for chunk in chunks()])
        stored = store.open(digests) if store.pays(len(digests)) else None
        if stored is None:
            self._encode(chunks(), memory_bytes, digests)
            if store.pays(len(digests)):
                store.keep(digests, StoredRows(self.lengths, self._flat, self.dropped, self.truncated_rows))
            return
        self.digests, self.lengths, self._flat = digests, stored.lengths, stored.flat
        self.dropped, self.truncated_rows, self._mapped = stored.dropped, stored.truncated_rows, True

    def _encode(self, chunks: Iterable[Sequence[Any]], memory_bytes: int, digests: Array | None = None) -> None:
        lengths = [np.zeros(0, dtype=np.int64)]
        found: list[Array] = []
        held = 0
        for chunk in chunks:
            chunk_lengths, added = self._take(chunk)
            lengths.append(chunk_lengths)
            if digests is None:
                found.append(row_digests(chunk))
            held += added
            if held > memory_bytes:
                self._spill()
                held = 0
        self.digests = _joined(found) if digests is None else digests
        self.lengths = np.concatenate(lengths)
        self._flat = {name: column.joined() for name, column in self._columns.items()}

    def _take(self, chunk: Sequence[Any]) -> tuple[Array, int]:
        encoded = self.modality.encode(chunk, spans=False)
        if not encoded:
            return np.zeros(0, dtype=np.int64), 0
        dropped = np.asarray([row.dropped for row in encoded], dtype=np.int64)
        self.dropped += int(dropped.sum())
        self.truncated_rows += int((dropped > 0).sum())
        added = 0
        for name, first in encoded[0].inputs.items():
            column = self._columns.setdefault(name, _Column(first))
            added += column.append([row.inputs[name] for row in encoded])
        return np.asarray([row.length for row in encoded], dtype=np.int64), added

    def _spill(self) -> None:
        try:
            for column in self._columns.values():
                column.spill()
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            where = tempfile.gettempdir()
            fix = "free some space, or name a folder on a larger disk in the environment variable TMPDIR"
            raise MachineError(Problem(what="the disk is full", where=where, got=str(error), fix=fix)) from error


def _joined(parts: list[Array]) -> Array:
    return np.concatenate(parts) if parts else np.zeros((0, DIGEST_BYTES), dtype=np.uint8)
