"""A seeded sample of rows in which no class is lost."""

from __future__ import annotations

import numpy as np

from regraft.types import Array


def stratified(targets_N: Array, rows: int, seed: int) -> Array:
    """Return sorted positions of about `rows` rows, each class in its share and with at least one row.

    Args:
        targets_N: Class index of each row.
        rows: Rows wanted; everything is returned where there are no more. Classes of under one row in the sample add to it.
        seed: The same seed draws the same rows.

    Example:
        >>> stratified(np.array([0, 0, 0, 0, 0, 0, 1]), 4, seed=0).tolist()[-1]
        6
    """
    total = len(targets_N)
    if total <= rows:
        return np.arange(total)
    drawn = np.random.default_rng(seed).permutation(total)
    by_class = drawn[np.argsort(targets_N[drawn], kind="stable")]
    counts = np.unique(targets_N, return_counts=True)[1]
    wanted = np.maximum(1, np.floor(counts * rows / total)).astype(np.int64)
    starts = np.cumsum(counts) - counts
    chosen = [by_class[start : start + size] for start, size in zip(starts, wanted, strict=True)]
    kept = np.concatenate(chosen)
    spare = np.setdiff1d(drawn, kept, assume_unique=True)[: max(0, rows - len(kept))]
    return np.sort(np.concatenate([kept, spare]))
