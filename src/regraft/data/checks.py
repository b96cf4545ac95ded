"""Look for what makes numbers dishonest: equal inputs with different targets, and inputs that training and test share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from regraft.data.split import Split
from regraft.data.store import RowStore
from regraft.data.targets import Cells
from regraft.types import Array, Ledger

CONFLICTS = "rows whose input also stands with another target"


def shared_reason(name: str) -> str:
    """Return the ledger's reason for rows of a given split whose input is also a training input."""
    return f"{name} rows whose input is also a training row"


def count_conflicts(store: RowStore, targets: Sequence[Any], ledger: Ledger) -> None:
    """Count rows whose input stands in the same source with different targets.

    Args:
        store: The rows.
        targets: What each code of the store means; of several targets, one that is missing contradicts none.
        ledger: Receives the count and the first places.
    """
    columns = [targets]
    if targets and isinstance(targets[0], Cells):
        columns = [[cells[name] for cells in targets] for name in targets[0]]
    _, group_N = np.unique(store.keys_N, return_inverse=True)
    found_N = np.zeros(len(group_N), dtype=bool)
    for column in columns:
        found_N |= _conflicting(column, store.codes_N, group_N)
    rows = np.flatnonzero(found_N)
    if len(rows):
        ledger.add(CONFLICTS, len(rows))
        for row in rows[:3]:
            ledger.add(CONFLICTS, 0, store.place(int(row)))


def _conflicting(targets: Sequence[Any], codes_N: Array, group_N: Array) -> Array:
    """Return which rows have an input that stands with different targets, none of them missing."""
    numbered: dict[Any, int] = {}
    class_of_code = np.array([-1 if value is None else numbered.setdefault(value, len(numbered)) for value in targets])
    classes_N = class_of_code[codes_N]
    there_N = classes_N >= 0
    groups = int(group_N.max()) + 1
    low, high = np.full(groups, len(numbered)), np.full(groups, -1)
    np.minimum.at(low, group_N[there_N], classes_N[there_N])
    np.maximum.at(high, group_N[there_N], classes_N[there_N])
    found_N: Array = (low < high)[group_N] & there_N
    return found_N


def count_shared(given: Mapping[str, Split], ledger: Ledger) -> None:
    """Count rows of given splits whose input is also in the training rows; drawn splits share none by construction.

    Args:
        given: Split -> rows; those of "train" are compared with each other split.
        ledger: Receives the counts and the first places.
    """
    train = given["train"].keys()
    for name, split in given.items():
        if split is given["train"]:
            continue
        rows = np.flatnonzero(np.isin(split.keys(), train))
        if len(rows):
            ledger.add(shared_reason(name), len(rows))
            for row in rows[:3]:
                ledger.add(shared_reason(name), 0, split.place(int(row)))
