"""Encoded rows of a whole split: ragged arrays laid end to end, in memory while they are small, memory-mapped when not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from typing import IO, Any

import numpy as np

from regraft.modalities.modality import Modality
from regraft.types import Array, Batch, Encoded

_MEMORY_BYTES = 256 * 2**20


class EncodedRows:
    """Rows of one split, encoded once.

    Inputs whose first axis is the position are stored flat with offsets, so that a million rows cost their positions and not a
    million Python objects. Beyond `memory_bytes` the arrays move to a temporary file that vanishes with the process.

    Args:
        modality: Encodes and pads.
        chunks: The raw values, in chunks; none has a `problem`.
        memory_bytes: Budget before the arrays move to disk.
    """

    def __init__(self, modality: Modality, chunks: Iterable[Sequence[Any]], memory_bytes: int = _MEMORY_BYTES) -> None:
        self.modality = modality
        self.dropped = 0
        self.truncated_rows = 0
        self._files: dict[str, IO[bytes]] = {}
        self._parts: dict[str, list[Array]] = {}
        self._memory_bytes = memory_bytes
        lengths: list[int] = []
        held = 0
        for chunk in chunks:
            for encoded in modality.encode(chunk):
                lengths.append(encoded.length)
                self.dropped += encoded.dropped
                self.truncated_rows += encoded.dropped > 0
                for name, array in encoded.inputs.items():
                    self._parts.setdefault(name, []).append(array)
                    held += array.nbytes
            if held > memory_bytes:
                self._spill()
                held = 0
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self._offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        self._flat = {name: self._joined(name) for name in self._parts}

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def positions(self) -> int:
        """Number of real positions over all rows."""
        return int(self._offsets[-1])

    def batch(self, rows: Array, targets: Array | None = None) -> Batch:
        """Return the rows with these positions as one padded batch.

        Args:
            rows: Positions (B,) of rows in this split.
            targets: Targets of the whole split; the batch takes those of its rows.
        """
        encoded = [self._row(int(row)) for row in rows]
        inputs, mask_BT = self.modality.collate(encoded)
        return Batch(inputs=inputs, mask_BT=mask_BT, targets=None if targets is None else targets[rows], rows_B=rows)

    def _row(self, row: int) -> Encoded:
        start, end = self._offsets[row], self._offsets[row + 1]
        inputs = {name: flat[start:end] for name, flat in self._flat.items()}
        return Encoded(inputs=inputs, spans_T2=np.zeros((end - start, 2), dtype=np.int32))

    def _spill(self) -> None:
        for name, parts in self._parts.items():
            if name not in self._files:
                self._files[name] = tempfile.TemporaryFile(prefix="regraft-encoded-")  # noqa: SIM115 - lives with the object
            for part in parts:
                self._files[name].write(np.ascontiguousarray(part).tobytes())
            self._parts[name] = parts[-1:]
            self._spilled = True

    def _joined(self, name: str) -> Array:
        parts = self._parts[name]
        return np.concatenate(parts) if parts else np.zeros(0)
