"""Rows of several parts over a whole split: each part holds the rows that have it, encoded as it would be alone.

Shapes: N rows of the split, B rows of a batch, P parts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.modalities.encoded import EncodedRows
from regraft.modalities.fusion import Fusion
from regraft.types import Array, Batch, BatchRows

if TYPE_CHECKING:
    from regraft.modalities.encoded_store import EncodedStore
    from regraft.modalities.modality import Modality


class FusedRows:
    """Rows of one split, by parts.

    Args:
        modality: Puts the parts of a batch together.
        parts: For each part the rows that have it.
        places_PN: For each part and row of the split, the place of the row among those that have the part; -1 where it is
            missing.
    """

    def __init__(self, modality: Fusion, parts: Sequence[BatchRows], places_PN: Array) -> None:
        self.modality: Modality = modality
        self.parts = tuple(parts)
        self.places_PN = places_PN
        self._fusion = modality
        lengths_PN = [
            np.where(places_N < 0, 0, rows.lengths[np.maximum(places_N, 0)] if len(rows) else 0)
            for rows, places_N in zip(parts, places_PN, strict=True)
        ]
        self.lengths: Array = np.asarray(np.sum(lengths_PN, axis=0, dtype=np.int64))
        encoded = [rows for rows in parts if isinstance(rows, EncodedRows)]
        self.dropped = sum(rows.dropped for rows in encoded)
        self.truncated_rows = sum(rows.truncated_rows for rows in encoded)

    @classmethod
    def encoded(
        cls,
        modality: Fusion,
        chunks: Callable[[], Iterable[Sequence[Any]]],
        store: Callable[[Modality], EncodedStore | None],
    ) -> FusedRows:
        """Encode every part of every row.

        Args:
            modality: Encodes.
            chunks: Gives the raw rows, in chunks, whenever it is called.
            store: Where the rows of a modality are kept between runs.
        """
        there = [[value is not None for value in modality.raws(raw)] for chunk in chunks() for raw in chunk]
        there_PN = np.array(there, dtype=bool).reshape(-1, len(modality.parts)).T
        places_PN = np.where(there_PN, there_PN.cumsum(axis=1) - 1, -1)
        parts = [
            EncodedRows(part.modality, functools.partial(_values, modality, number, chunks), store=store(part.modality))
            for number, part in enumerate(modality.parts)
        ]
        return cls(modality, parts, places_PN)

    def __len__(self) -> int:
        return int(self.places_PN.shape[1])

    def with_parts(self, parts: Sequence[BatchRows]) -> FusedRows:
        """Return the same rows with other values for the parts: what was made of them further up the network."""
        return FusedRows(self._fusion, parts, self.places_PN)

    def drawn(self, rng: np.random.Generator) -> FusedRows:
        """Return the rows as one epoch of training sees them: each part varied as it would be alone."""
        return self.with_parts([part.drawn(rng) for part in self.parts])

    def batch(self, rows: Array, targets: Array | None = None) -> Batch:
        """Return the rows with these positions as one batch.

        Args:
            rows: Positions (B,) of rows in this split.
            targets: Targets of the whole split; the batch takes those of its rows.
        """
        rows = np.asarray(rows, dtype=np.int64)
        made = []
        for part, held, places_N in zip(self._fusion.parts, self.parts, self.places_PN, strict=True):
            there_B = places_N[rows] >= 0
            # Without a row of its own, a part still says of what shape it is, if it has any row at all.
            one = held.batch(places_N[rows][there_B]) if len(held) else None
            made.append(self._fusion.spread(part, (dict(one.inputs), one.mask_BT) if one else None, there_B))
        inputs, mask_BT = self._fusion.together(made)
        return Batch(inputs=inputs, mask_BT=mask_BT, targets=None if targets is None else targets[rows], rows_B=rows)


def _values(modality: Fusion, number: int, chunks: Callable[[], Iterable[Sequence[Any]]]) -> Iterator[list[Any]]:
    """Yield the raw values of one part, of the rows that have it."""
    for chunk in chunks():
        found = (modality.raws(raw)[number] for raw in chunk)
        yield [value for value in found if value is not None]


__all__ = ["FusedRows"]
