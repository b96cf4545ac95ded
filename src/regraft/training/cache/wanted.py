"""Which rows are wanted, and where each of them stands in files.

N rows as they were asked for, U different ones among them (the same text twice is one), E entries of files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regraft.types import Array


@dataclass(frozen=True)
class Wanted:
    """Rows that are wanted, the same one only once.

    Args:
        digests_U16: Digests of the different rows, in the order in which each appears first.
        lengths_U: Positions of each.
        starts_U: First position of each where all of them lie end to end.
        rows_U: Where each appears first among the rows.
        entry_N: Which of the U a row is.
    """

    digests_U16: Array
    lengths_U: Array
    starts_U: Array
    rows_U: Array
    entry_N: Array

    @property
    def positions(self) -> int:
        """Positions of all different rows."""
        return int(self.lengths_U.sum())


def wanted(digests_N16: Array, lengths_N: Array) -> Wanted:
    """Find the different rows.

    Args:
        digests_N16: One digest a row, uint8.
        lengths_N: Positions of each row.

    Raises:
        ValueError: The shapes do not belong together.
    """
    digests_N16 = np.ascontiguousarray(digests_N16, dtype=np.uint8)
    lengths_N = np.asarray(lengths_N, dtype=np.int64)
    if digests_N16.shape != (len(lengths_N), 16) or lengths_N.ndim != 1:
        raise ValueError(f"digests are {digests_N16.shape}, lengths {lengths_N.shape}: (N, 16) and (N,) are wanted")
    if len(lengths_N) and (lengths_N.min() < 0 or lengths_N.max() >= 2**32):
        raise ValueError("lengths are from 0 to 2**32 - 1")
    groups_N = _groups(digests_N16, lengths_N)
    first_U = np.full(int(groups_N.max(initial=-1)) + 1, len(groups_N), dtype=np.int64)
    np.minimum.at(first_U, groups_N, np.arange(len(groups_N)))
    order = np.argsort(first_U)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    rows_U = first_U[order]
    lengths_U = lengths_N[rows_U]
    return Wanted(digests_N16[rows_U], lengths_U, np.cumsum(lengths_U) - lengths_U, rows_U, place[groups_N])


def find(rows: Wanted, digests_E16: Array, lengths_E: Array, usable_E: Array) -> Array:
    """Return for each wanted row the last usable entry that holds it, or -1.

    Args:
        rows: The rows.
        digests_E16: Digests of the entries.
        lengths_E: Positions of the entries.
        usable_E: Which of them count.
    """
    groups = _groups(np.concatenate([digests_E16, rows.digests_U16]), np.concatenate([lengths_E, rows.lengths_U]))
    entries = len(lengths_E)
    last = np.full(int(groups.max(initial=-1)) + 1, -1, dtype=np.int64)
    usable = np.flatnonzero(usable_E)
    last[groups[:entries][usable]] = usable  # where an index comes twice, numpy lets the last one stand
    return last[groups[entries:]]


def spread(starts_B: Array, lengths_B: Array) -> Array:
    """Return the positions of rows one after another, without a Python step a row.

    Example:
        >>> spread(np.array([7, 0]), np.array([3, 2])).tolist()
        [7, 8, 9, 0, 1]
    """
    before_B = np.cumsum(lengths_B) - lengths_B
    return np.repeat(starts_B - before_B, lengths_B) + np.arange(int(lengths_B.sum()))


def _groups(digests_M16: Array, lengths_M: Array) -> Array:
    """Return one number for each digest and length, the same for the same."""
    words = np.ascontiguousarray(digests_M16).view("<u8")
    order = np.lexsort((lengths_M, words[:, 1], words[:, 0]))
    sorted_words, sorted_lengths = words[order], lengths_M[order]
    new = np.ones(len(order), dtype=np.int64)
    same = (sorted_words[1:] == sorted_words[:-1]).all(axis=1) & (sorted_lengths[1:] == sorted_lengths[:-1])
    new[1:] = ~same
    groups = np.empty(len(order), dtype=np.int64)
    groups[order] = np.cumsum(new) - 1
    return groups
