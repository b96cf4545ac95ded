"""Rows that belong together: clips of one speaker, mails of one sender. They are drawn together, because they err together.

A bootstrap that draws such rows one by one takes a thousand clips of ten speakers for a thousand speakers, and its intervals
are too narrow. Here whole groups are drawn (Field & Welsh 2007, "Bootstrapping clustered data"), whole groups are exchanged in
a test, and a proportion is judged on as many rows as the groups are worth.

Shapes: N rows, G groups, K numbers a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from regraft.evaluation.shares import quantile_of_t
from regraft.types import Array, FloatArray

FEW_GROUPS = 20
"""With fewer groups than this an interval over groups is only rough, and a note says so."""


def group_codes(values: Sequence[Any]) -> Array:
    """Return the number of each row's group (N,), 0 to G - 1; a row without a value is a group by itself.

    Example:
        >>> group_codes(["ann", "bob", "ann", None]).tolist()
        [0, 1, 0, 2]
    """
    known: dict[Any, int] = {}
    codes = [known.setdefault(("", row) if value is None else value, len(known)) for row, value in enumerate(values)]
    return np.array(codes, dtype=np.int64)


def relevant(groups_N: Array | None) -> Array | None:
    """Return groups numbered without gaps, or nothing where every row is a group by itself."""
    if groups_N is None:
        return None
    found, codes_N = np.unique(groups_N, return_inverse=True)
    return None if len(found) == len(groups_N) else codes_N


def group_sums(values: Array, groups_N: Array | None) -> Array:
    """Return the sums of rows over each group (G, ...); the rows themselves without groups."""
    if groups_N is None:
        return values
    sums = np.zeros((int(groups_N.max()) + 1, *values.shape[1:]))
    np.add.at(sums, groups_N, values)
    return sums


def units(rows: int, groups_N: Array | None) -> int:
    """Return how many things are drawn by themselves: groups, or rows without groups."""
    return rows if groups_N is None else int(groups_N.max()) + 1


def design_effect(right_N: Array, groups_N: Array | None) -> float:
    """Return by how much fewer rows a proportion is judged on than there are, because rows of a group are alike; at least 1.

    The variance of the proportion over groups, G / (G - 1) times the sum of squares of the groups' errors, over that of as many
    unrelated rows (Rao & Scott 1992, "A simple method for the analysis of clustered binary data"). Where all rows are alike it
    cannot be seen, and a group counts as one row.

    Args:
        right_N: Whether each row is a success (N,).
        groups_N: The group of each row; 1 is returned without.
    """
    if groups_N is None:
        return 1.0
    errors_N = right_N - right_N.mean()
    rows, groups = len(right_N), units(len(right_N), groups_N)
    spread = float(np.square(errors_N).sum())
    if spread == 0 or groups == 1:
        return rows / groups
    together = float(np.square(group_sums(errors_N, groups_N)).sum()) * groups / (groups - 1)
    return max(1.0, together / spread)


def confidence_over(groups: int, confidence: float) -> float:
    """Return the confidence at which a normal quantile is Student's t of G - 1 degrees of freedom at the one that is wanted."""
    if groups <= 1:
        return 1.0 - 1e-9
    t = quantile_of_t(0.5 + confidence / 2, groups - 1)
    return min(2 * NormalDist().cdf(t) - 1, 1.0 - 1e-9)


def standard_error(influence_N: FloatArray, groups_N: Array | None) -> float:
    """Return the standard error of a metric from how far each row pulls it, over groups where there are any."""
    sums = group_sums(influence_N, groups_N)
    spare = 1.0 if groups_N is None or len(sums) < 2 else len(sums) / (len(sums) - 1)
    return float(np.sqrt(np.square(sums).sum() * spare)) / len(influence_N)


def group_notes(groups_N: Array | None, column: str) -> list[str]:
    """Return what a reader must know: that rows are drawn in groups, how many there are, and whether these are too few.

    Args:
        groups_N: The group of each row; nothing is returned without.
        column: What says which rows belong together.
    """
    if groups_N is None:
        return []
    groups = units(len(groups_N), groups_N)
    rows = f"{len(groups_N):,} rows" if len(groups_N) > 1 else "1 row"
    told = f"rows of one '{column}' are drawn together: {groups:,} groups of {rows}"
    return [told + ("; with so few of them intervals and tests are rough" if groups < FEW_GROUPS else "")]


__all__ = [
    "FEW_GROUPS",
    "confidence_over",
    "design_effect",
    "group_codes",
    "group_notes",
    "group_sums",
    "relevant",
    "standard_error",
    "units",
]
