"""Several targets of a row as one column of mappings, and how rows with them are drawn into splits.

Shapes: N rows, V different values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from regraft.data.gathering import Gather, named_columns
from regraft.data.roles import require_column
from regraft.data.rows import RowSource
from regraft.data.targets import Cells
from regraft.errors import DataError, Problem
from regraft.types import Array

FEW_ROWS = 10
"""Rows that share a value of one target are drawn apart from the others by a second target only where so many share both."""

Strata = Callable[[Sequence[Any], Array], tuple[Array, bool]]
"""Takes the different values of a target and the number of each row's; returns the stratum of each row (N,), and whether the
values are classes."""


def gathered_targets(
    tables: Mapping[str, RowSource], targets: Sequence[str], inputs: Mapping[str, Any]
) -> tuple[dict[str, RowSource], str]:
    """Return the tables with the target columns as one, and the name of that.

    Args:
        tables: Split -> rows.
        targets: Their columns.
        inputs: Modality -> the column or columns that it reads, as `load_dataset` takes them.

    Raises:
        DataError: A column is not there, or is read as well; one problem for each.
    """
    problems = [p for table in tables.values() for name in targets for p in require_column(table, name, f"--target {name}")]
    first = next(iter(tables.values()))
    for modality, wanted in inputs.items():
        both = [name for name in _read(wanted, first.columns) if name in targets]
        fix = "name another column for one of them"
        problems += [
            Problem(
                what=f"the column '{name}' cannot be both target and input",
                where=first.name,
                got=f"--target {name} --{modality} {name}",
                fix=fix,
            )
            for name in both
        ]
    if problems:
        raise DataError(problems)
    together = ", ".join(targets)
    while any(together in table.columns for table in tables.values()):
        together += "_"
    return {split: table.gathered(together, targets) for split, table in tables.items()}, together


def _read(wanted: Any, there: Sequence[str]) -> list[str]:
    """Return the columns that are named as input."""
    if isinstance(wanted, Gather):
        return [*named_columns(wanted.columns, there), *wanted.flags]
    column = getattr(wanted, "column", wanted)
    return [column] if isinstance(column, str) else []


def several_strata(values: Sequence[Cells], codes_N: Array, strata: Strata) -> Array:
    """Return a stratum for each row by all its targets: the first in any case, each other where enough rows share both.

    Args:
        values: The different values.
        codes_N: Which of them each row has.
        strata: Gives those of one target.
    """
    found_N = np.zeros(len(codes_N), dtype=np.int64)
    for place, name in enumerate(values[0]):
        own_N = _strata_of(name, values, codes_N, strata)[0]
        joint_N = np.unique(np.stack([found_N, own_N]), axis=1, return_inverse=True)[1].reshape(-1)
        large_N = np.bincount(joint_N)[joint_N] >= (FEW_ROWS if place else 1)
        found_N = np.unique(np.stack([found_N, np.where(large_N, joint_N, -1)]), axis=1, return_inverse=True)[1].reshape(-1)
    return found_N


def _strata_of(name: str, values: Sequence[Cells], codes_N: Array, strata: Strata) -> tuple[Array, bool]:
    """Return the strata of the rows by one target, and whether they are classes; rows without it have one of their own, -1."""
    different: dict[Any, int] = {}
    number_of_code = np.array([-1 if v[name] is None else different.setdefault(v[name], len(different)) for v in values])
    numbers_N = number_of_code[codes_N]
    there_N, found_N = numbers_N >= 0, np.full(len(codes_N), -2, dtype=np.int64)
    if not different:
        return found_N, False
    found_N[there_N], classes = strata(list(different), numbers_N[there_N])
    return found_N, classes


def with_every_class(
    drawn: Mapping[str, Array], values: Sequence[Cells], codes_N: Array, keys_N: Array, strata: Strata
) -> dict[str, Array]:
    """Return splits in which every class of every target stands in a training row: what it lacks is taken from the others.

    Args:
        drawn: Split -> positions of its rows, ascending; "train" first.
        values: The different values.
        codes_N: Which of them each row has.
        keys_N: One key a row; rows of one key stay together.
        strata: Gives those of one target.
    """
    names = list(drawn)
    split_N = np.zeros(len(codes_N), dtype=np.int64)
    for place, name in enumerate(names):
        split_N[drawn[name]] = place
    for name in values[0]:
        strata_N, classes = _strata_of(name, values, codes_N, strata)
        for stratum in np.unique(strata_N[strata_N >= 0]) if classes else ():
            rows = np.flatnonzero(strata_N == stratum)
            if not (split_N[rows] == 0).any():
                split_N[keys_N == keys_N[rows[0]]] = 0
    return {name: np.flatnonzero(split_N == place) for place, name in enumerate(names)}
