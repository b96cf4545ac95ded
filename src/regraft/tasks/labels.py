"""Labels by name: which values can be labels, in which order they stand, and what is wrong with a column of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, cast

import numpy as np

from regraft.data.targets import as_number
from regraft.errors import DataError, OptionsError, Problem, did_you_mean
from regraft.options import Before, Field
from regraft.types import Array, FloatArray, Label, Ledger

MAX_CLASSES = 10_000
"""More classes than this are taken for a column of names or numbers, not of labels."""

_PLURAL = {str: "strings", int: "integers", bool: "booleans"}
_WHERE = "training rows, target column"


def plain(value: object) -> object:
    """Return a numpy scalar as the Python value it stands for, anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def label_name(label: Label) -> str:
    """Return the name of a label: what people see and what keys of a mapping say.

    Example:
        >>> label_name("spam"), label_name(3), label_name(True)
        ('spam', '3', 'true')
    """
    return str(label).lower() if isinstance(label, bool) else str(label)


def _by_name(value: object) -> object:
    # YAML reads {0: 1.0} and {true: 2.0} with keys that JSON cannot have; labels are named the same way everywhere.
    return {label_name(key): weight for key, weight in value.items()} if isinstance(value, dict) else value


LabelWeights = Annotated[dict[str, Annotated[float, Field(gt=0.0)]], Before(_by_name)]
"""Name of a label -> its weight, for options of tasks."""


def weights_of(chosen: Mapping[str, float], names: Sequence[str]) -> list[float]:
    """Return the weight of every label; 1 where nothing is said.

    Args:
        chosen: Name of a label -> its weight.
        names: Names of all labels, in order.

    Raises:
        OptionsError: A weight is for a label that is not there.

    Example:
        >>> weights_of({"spam": 3.0}, ["ham", "spam"])
        [1.0, 3.0]
    """
    problems = [
        Problem(
            what=f"there is a weight for the label '{name}', which the training rows do not have",
            where="class_weights",
            expected="labels of the training rows",
            fix=did_you_mean(name, names),
        )
        for name in chosen
        if name not in names
    ]
    if problems:
        raise OptionsError(problems)
    return [float(chosen.get(name, 1.0)) for name in names]


def count_labels(values: Sequence[object], ledger: Ledger) -> dict[Label, int]:
    """Count the labels of a column, in label order: False before True, numbers by value, strings by code point.

    Args:
        values: The target of every training row.
        ledger: Counts classes with a single row, and labels that differ only in case or spaces.

    Raises:
        DataError: The values are of several types or cannot be labels, or there are too few or too many of them.

    Example:
        >>> count_labels(["spam", "ham", "ham"], Ledger())
        {'ham': 2, 'spam': 1}
    """
    # The type is part of the key, because True == 1 in a Python mapping.
    counted = Counter((type(value), value) if _hashable(value) else (type(value), repr(value)) for value in map(plain, values))
    problem = _type_problem(counted)
    if problem is not None:
        raise DataError(problem)
    in_order = sorted(counted.items(), key=lambda item: cast(str, item[0][1]))
    counts = {cast(Label, label): n for (_, label), n in in_order}
    problem = _number_problem(counts, len(values))
    if problem is not None:
        raise DataError(problem)
    for label, n in counts.items():
        if n == 1:
            ledger.add("classes with a single training row", 1, f"label {label_name(label)!r}")
    for first, second in _lookalikes(counts):
        ledger.add("labels that differ only in case or spaces", 1, f"{first!r} and {second!r}")
    return counts


def one_over_count(targets: Array) -> FloatArray:
    """Return for each row 1 / the number of rows of its class: as many chances for every class.

    Example:
        >>> one_over_count(np.array([0, 1, 1])).tolist()
        [1.0, 0.5, 0.5]
    """
    _, class_B, rows_C = np.unique(targets, return_inverse=True, return_counts=True)
    chances: FloatArray = 1.0 / rows_C[class_B]
    return chances


def _hashable(value: object) -> bool:
    return not isinstance(value, list | dict | set | np.ndarray)


def _type_problem(counted: Counter[tuple[type, object]]) -> Problem | None:
    kinds: dict[type, int] = {}
    examples: dict[type, object] = {}
    for (kind, value), n in counted.items():
        kinds[kind] = kinds.get(kind, 0) + n
        examples.setdefault(kind, value)
    found = ", ".join(f"{n} {_PLURAL.get(kind, kind.__name__)} (such as {examples[kind]!r})" for kind, n in kinds.items())
    strange = [kind for kind in kinds if kind not in _PLURAL]
    if strange:
        floats = "; numbers with fractions are amounts to be estimated, not labels" if float in strange else ""
        return Problem(
            what=f"the target has values that cannot be labels{floats}",
            where=_WHERE,
            got=found,
            expected="strings, integers or booleans",
            fix="choose another target column, or write each value as the name of a class"
            + _other_task(examples.values())
            + ("; several labels a row are for --task multi-label" if strange == [tuple] else ""),
        )
    if len(kinds) > 1:
        return Problem(
            what="the labels are of more than one type",
            where=_WHERE,
            got=found,
            expected="labels of one type: strings, integers or booleans",
            fix="write every label in the same form, for example all as text",
        )
    return None


def _number_problem(counts: Mapping[Label, int], rows: int) -> Problem | None:
    if len(counts) < 2:
        got = f"{rows} rows, all with the label {next(iter(counts))!r}" if counts else "no rows"
        return Problem(
            what="there is nothing to tell apart: the target has fewer than two classes",
            where=_WHERE,
            got=got,
            expected="at least two labels",
            fix="add rows of another class, or choose another target column",
        )
    if len(counts) == rows or len(counts) > MAX_CLASSES:
        some = ", ".join(repr(label) for label in list(counts)[:3])
        own = "every row has a label of its own" if len(counts) == rows else f"more than {MAX_CLASSES:,} classes"
        return Problem(
            what=f"the target does not look like classes: {own}",
            where=_WHERE,
            got=f"{len(counts):,} labels on {rows:,} rows, such as {some}",
            expected="far fewer labels than rows; an identifier or a number to be estimated is no class",
            fix="choose another target column, or group the values into classes" + _other_task(counts),
        )
    return None


def _other_task(values: Iterable[object]) -> str:
    """Return the task that values are for which are no classes but all numbers."""
    numbers = all(as_number(value) is not None for value in values)
    return "; to estimate the number itself: --task regression" if numbers else ""


def _lookalikes(counts: Mapping[Label, int]) -> list[tuple[str, str]]:
    seen: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    for label in counts:
        if isinstance(label, str):
            first = seen.setdefault(" ".join(label.casefold().split()), label)
            if first != label:
                pairs.append((first, label))
    return pairs
