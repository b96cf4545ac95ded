"""Look for what makes numbers dishonest: equal inputs with different targets, and inputs that training and test share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from regraft.data.split import Split
from regraft.data.store import RowStore
from regraft.types import Ledger

CONFLICTS = "rows whose input also stands with another target"


def shared_reason(name: str) -> str:
    """Return the ledger's reason for rows of a given split whose input is also a training input."""
    return f"{name} rows whose input is also a training row"


def count_conflicts(store: RowStore, targets: Sequence[Any], ledger: Ledger) -> None:
    """Count rows whose input stands in the same source with different targets.

    Args:
        store: The rows.
        targets: What each code of the store means.
        ledger: Receives the count and the first places.
    """
    numbered: dict[Any, int] = {}
    class_of_code = np.array([numbered.setdefault(value, len(numbered)) for value in targets])
    classes_N = class_of_code[store.codes_N]
    _, group_N = np.unique(store.keys_N, return_inverse=True)
    groups = int(group_N.max()) + 1
    low, high = np.full(groups, len(numbered)), np.full(groups, -1)
    np.minimum.at(low, group_N, classes_N)
    np.maximum.at(high, group_N, classes_N)
    rows = np.flatnonzero((low != high)[group_N])
    if len(rows):
        ledger.add(CONFLICTS, len(rows))
        for row in rows[:3]:
            ledger.add(CONFLICTS, 0, store.place(int(row)))


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
