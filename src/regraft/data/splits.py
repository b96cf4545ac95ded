"""Split rows by a seed: the same share of every class in each split, and never the same input in two splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from regraft.types import Array

_STRATA_OF_NUMBERS = 10


def largest_remainder(total: int, shares: Sequence[float]) -> list[int]:
    """Return whole numbers that add up to `total`, as near to the shares as can be (Hamilton's method).

    Every part gets its quota rounded down; what is left goes to the largest remainders, earlier parts first.

    Args:
        total: What to share out.
        shares: One share a part, adding up to 1.

    Example:
        >>> largest_remainder(10, [0.7, 0.1, 0.2])
        [7, 1, 2]
    """
    quotas = [total * share for share in shares]
    # A quota such as 2.9999999999999996 is the whole number it was meant to be.
    counts = [int(quota + 1e-9) for quota in quotas]
    by_remainder = sorted(range(len(shares)), key=lambda i: (-round(quotas[i] - counts[i], 9), i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def split_rows(keys_N: Array, strata_N: Array, shares: Mapping[str, float], seed: int) -> dict[str, Array]:
    """Share rows out to splits.

    Rows with the same key are one group and stay together. Groups of a class are drawn in a random order into each held-out
    split while they fit its count of rows; what is left is training data. Without groups of several rows the counts are
    those of `largest_remainder` for every class; every class keeps at least one row for training.

    Args:
        keys_N: One key a row; equal for identical inputs.
        strata_N: Class of each row, small whole numbers.
        shares: Held-out split -> share of the rows; the rest is "train".
        seed: Draws the order.

    Returns:
        Split -> positions of its rows, ascending; "train" first.
    """
    rng = np.random.default_rng(seed)
    _, first_of_group, group_N, sizes = np.unique(keys_N, return_index=True, return_inverse=True, return_counts=True)
    # Groups are numbered in the order of their first rows, so that the draw does not depend on the values of the keys.
    order = np.argsort(first_of_group, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    group_N, sizes, strata_G = rank[group_N], sizes[order], strata_N[first_of_group[order]]
    names = ["train", *shares]
    split_G = np.zeros(len(sizes), dtype=np.int8)
    strata, stratum_G = np.unique(strata_G, return_inverse=True)
    rows_S = np.bincount(stratum_G, weights=sizes, minlength=len(strata)).astype(np.int64)
    counts_S = _counts(rows_S, [1.0 - sum(shares.values()), *shares.values()])
    by_stratum = np.argsort(stratum_G, kind="stable")
    bounds = np.searchsorted(stratum_G[by_stratum], np.arange(len(strata) + 1))
    for stratum, counts in enumerate(counts_S):
        groups = by_stratum[bounds[stratum] : bounds[stratum + 1]]
        groups = groups[rng.permutation(len(groups))]
        for i, count in enumerate(counts[1:], start=1):
            taken = _fill(sizes[groups], count)
            split_G[groups[taken]] = i
            groups = groups[~taken]
    split_N = split_G[group_N]
    return {name: np.flatnonzero(split_N == i) for i, name in enumerate(names)}


def number_strata(values_N: Array) -> Array:
    """Return classes for numbers: tenths of their distribution, so that each split spans the same range."""
    edges = np.quantile(values_N, np.linspace(0, 1, _STRATA_OF_NUMBERS + 1)[1:-1])
    strata: Array = np.searchsorted(edges, values_N, side="right")
    return strata


def _counts(rows_S: Array, shares: list[float]) -> list[list[int]]:
    """Return for each stratum how many of its rows go to each split.

    These are the largest remainders, with two exceptions: training gets at least one row of every stratum, and a held-out
    split that would get none at all (many small classes) gets one row each of the classes that came nearest to one.
    """
    counts_S = [largest_remainder(int(rows), shares) for rows in rows_S]
    for counts in counts_S:
        if counts[0] == 0:
            counts[max(range(1, len(counts)), key=counts.__getitem__)] -= 1
            counts[0] += 1
    for i, share in enumerate(shares[1:], start=1):
        if any(counts[i] for counts in counts_S):
            continue
        largest = np.argsort(-rows_S, kind="stable")  # with one share for all, the largest class came nearest to a row
        giving = [stratum for stratum in largest if counts_S[stratum][0] > 1]
        for stratum in giving[: max(1, int(rows_S.sum() * share))]:
            counts_S[stratum][0] -= 1
            counts_S[stratum][i] += 1
    return counts_S


def _fill(sizes_G: Array, count: int) -> Array:
    """Return which groups to take, in their order, so that their sizes add up to `count` or as little less as comes out.

    Args:
        sizes_G: Rows of each group.
        count: Rows wanted.
    """
    taken = np.zeros(len(sizes_G), dtype=bool)
    start = 0
    while count > 0 and start < len(sizes_G):
        fitting = np.cumsum(sizes_G[start:]) <= count
        run = int(fitting.argmin()) if not fitting.all() else len(fitting)
        taken[start : start + run] = True
        count -= int(sizes_G[start : start + run].sum())
        start += run
        smaller = np.flatnonzero(sizes_G[start:] <= count)
        if not len(smaller):
            break
        start += int(smaller[0])
    return taken
