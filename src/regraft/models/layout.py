"""How the real positions of a padded batch lie end to end, and how they are grouped for attention.

A network computes most of its work position by position; only attention looks at rows. So the real positions of all rows are
laid end to end, shorter rows first, and attention runs over buckets of neighbouring rows, each padded to its own longest. How
many buckets is a matter of cost: one for short rows, one for each length when rows are long and uneven.

Shapes: B rows, T positions, N real positions of all rows, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from regraft.models.remade import slab
from regraft.models.slab import room
from regraft.types import Array

# Cost of attention over a bucket, in the time that one position costs by itself: `_CALL` to start it, 1 a position, `_PAIR` a
# pair of positions, `_COPY` a position more if rows are padded. From timings of torch's kernel on a CPU, 12 heads of 32,
# forward (90 us, 2.8 us, 0.03 us) and with backward (250 us, 10 us, 0.12 us): the ratios are nearly the same.
_CALL, _PAIR, _COPY = 27.0, 0.011, 0.35
# Products and softmax of rows whose length is a multiple of this take half the time a number (AVX2: 23 positions 213 us, 24
# positions 126 us for 120 heads of 32).
_ALIGNED = 8


@dataclass(frozen=True)
class Bucket:
    """Neighbouring rows that attend together.

    Args:
        start: First position in the packed order.
        stop: Position after the last.
        rows: Number of rows.
        longest: Places of every row: at least the positions of the last row, the longest.
        last: Positions of the last row.
        index: Place of each position in the padded (rows * longest); nothing where all rows have the same length.
        mask_RL: True where a place is real (rows, longest); nothing where all are.
    """

    start: int
    stop: int
    rows: int
    longest: int
    last: int
    index: torch.Tensor | None = None
    mask_RL: torch.Tensor | None = None


@dataclass(frozen=True)
class Layout:
    """Where each real position of a padded batch lies when all are laid end to end.

    Args:
        index_N: Place of each packed position in the padded batch (row * T + position).
        rows: Rows B of the batch.
        positions: Positions T of the padded batch.
        lengths: Positions of each row in the packed order.
        buckets: How rows attend together.
    """

    index_N: torch.Tensor
    rows: int
    positions: int
    lengths: tuple[int, ...]
    buckets: tuple[Bucket, ...]

    @functools.cached_property
    def aligned(self) -> tuple[Bucket, ...]:
        """How rows attend together where lengths are rounded up to what processors like: nearly every bucket is padded."""
        device, lengths = self.index_N.device, np.asarray(self.lengths)
        rounded = -(-lengths // _ALIGNED) * _ALIGNED
        return tuple(_bucket(lengths[rows], start, device, rounded[rows][-1]) for rows, start in _parts(lengths, rounded))

    def pack(self, values_BT: torch.Tensor) -> torch.Tensor:
        """Return the real positions of a padded tensor (B, T, ...) as one row (1, N, ...)."""
        return values_BT.flatten(0, 1).index_select(0, self.index_N).unsqueeze(0)

    def unpack(self, values_1ND: torch.Tensor) -> torch.Tensor:
        """Return one row (1, N, ...) as a padded tensor (B, T, ...), zero where there is padding."""
        flat = values_1ND.squeeze(0)
        padded = room(slab(), torch.Size((self.rows * self.positions, *flat.shape[1:])), flat).zero_()
        padded = padded.index_copy_(0, self.index_N, flat)
        return padded.view(self.rows, self.positions, *flat.shape[1:])


def layout_of(mask_BT: torch.Tensor) -> Layout | None:
    """Return the layout of a batch, or nothing where rows do not start at the first position or have no position at all.

    Args:
        mask_BT: True where a position is real.
    """
    real_BT = mask_BT.cpu().numpy()
    lengths_B = real_BT.sum(axis=1)
    rows, positions = real_BT.shape
    places_T = np.arange(positions)
    if not rows or not lengths_B.all() or not np.array_equal(real_BT, places_T < lengths_B[:, None]):
        return None
    order_B = np.argsort(lengths_B, kind="stable")
    ordered = lengths_B[order_B]
    index = (order_B * positions).repeat(ordered) + _within(ordered)
    device = mask_BT.device
    return Layout(
        index_N=torch.from_numpy(index).to(device),
        rows=rows,
        positions=positions,
        lengths=tuple(ordered.tolist()),
        buckets=tuple(_bucket(ordered[rows], start, device) for rows, start in _parts(ordered, ordered)),
    )


def partition(lengths: Sequence[int] | Array) -> list[int]:
    """Cut rows, ordered by length, into buckets that cost least; return the row at which each bucket ends.

    Dynamic programming over the different lengths: rows of one length stay together.

    Args:
        lengths: Positions of each row, ascending.

    Example:
        >>> partition([5, 5, 6, 7])
        [4]
        >>> partition([4] * 8 + [500])
        [8, 9]
    """
    lengths = np.asarray(lengths, dtype=np.float64)
    ends = np.append(np.flatnonzero(np.diff(lengths)) + 1, len(lengths))
    starts = np.append(0, ends[:-1])
    best = np.zeros(len(ends) + 1)
    chosen = np.zeros(len(ends), dtype=np.int64)
    for last, end in enumerate(ends):
        places = (end - starts[: last + 1]) * lengths[end - 1]
        copied = np.full(last + 1, _COPY)
        copied[last] = 0.0
        costs = best[: last + 1] + _CALL + places * (1.0 + copied + _PAIR * lengths[end - 1])
        chosen[last] = costs.argmin()
        best[last + 1] = costs[chosen[last]]
    cuts: list[int] = []
    last = len(ends) - 1
    while last >= 0:
        cuts.append(int(ends[last]))
        last = int(chosen[last]) - 1
    return cuts[::-1]


def _parts(ordered: Array, padded: Array) -> list[tuple[slice, int]]:
    """Return the rows of each bucket and its first position; `padded` are the lengths that count for the cost."""
    parts, begin, start = [], 0, 0
    for end in partition(padded):
        parts.append((slice(begin, end), start))
        begin, start = end, start + int(ordered[begin:end].sum())
    return parts


def _bucket(lengths: Array, start: int, device: torch.device, longest: int | None = None) -> Bucket:
    rows, stop, last = len(lengths), start + int(lengths.sum()), int(lengths[-1])
    longest = int(longest or last)
    if lengths[0] == longest:
        return Bucket(start, stop, rows, longest, last)
    index = (np.arange(rows) * longest).repeat(lengths) + _within(lengths)
    mask_RL = np.arange(longest) < lengths[:, None]
    return Bucket(start, stop, rows, longest, last, torch.from_numpy(index).to(device), torch.from_numpy(mask_RL).to(device))


def _within(lengths: Array) -> Array:
    """Return 0, 1, ... for each row, end to end."""
    places: Array = np.arange(lengths.sum()) - (np.cumsum(lengths) - lengths).repeat(lengths)
    return places
