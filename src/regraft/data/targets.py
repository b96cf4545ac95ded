"""Target values in the type they mean: whole numbers and true/false out of texts, whole numbers out of fractions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_INT = re.compile(r"0|-?[1-9][0-9]{0,18}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BOOL = {"true": True, "false": False}

TARGET_KINDS = ("str", "int", "bool", "float", "other")
"""What targets can be: the names of the Python types, and "other" for what is none of them."""


class Cells(dict[str, Any]):
    """Several targets of one row, column to value, None where one is missing; as unchangeable as its values, and hashable."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Cells:
        """Return values with None for what is missing, and lists as what can be hashed."""
        plain = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls({name: None if is_missing(value) else value for name, value in plain.items()})


Kind = str | Mapping[str, str]
"""What targets are: one of `TARGET_KINDS`, or column -> one of them where a target is several values."""


def kinds_of(values: Sequence[Any], typed: bool) -> tuple[Kind, list[str]]:
    """Return what the targets are, and the sentences that say so; of several targets those of each by its column.

    Args:
        values: The different values, none missing; or `Cells` with a value each.
        typed: As for `target_kind`.
    """
    if not values or not isinstance(values[0], Cells):
        kind, note = target_kind(values, typed)
        return kind, [note] if note else []
    found = {name: target_kind([cells[name] for cells in values if cells[name] is not None], typed) for name in values[0]}
    return {name: kind for name, (kind, _) in found.items()}, [f"{name}: {note}" for name, (_, note) in found.items() if note]


def kind_of_answer(value: Any) -> Kind:
    """Return the kind of targets that an answer is one of.

    Example:
        >>> kind_of_answer(3), kind_of_answer({"kind": "a", "price": 2.5})
        ('int', {'kind': 'str', 'price': 'float'})
    """
    if isinstance(value, Mapping):
        return {name: type(part).__name__ for name, part in value.items()}
    return type(value).__name__


def target_kind(values: Sequence[Any], typed: bool) -> tuple[str, str]:
    """Return what the targets are, and the sentence that says so where they are not what the file holds.

    Args:
        values: The different values, none missing.
        typed: Whether the format knows numbers from texts; then texts stay texts.

    Returns:
        One of `TARGET_KINDS`, and a note or an empty string.
    """
    kinds = {type(value) for value in values}
    if kinds == {str} and not typed:
        if all(_whole_text(value) for value in values):
            return "int", "all targets are whole numbers: read as numbers"
        if all(value.lower() in _BOOL for value in values):
            return "bool", "all targets are true or false: read as such"
    if kinds in ({float}, {float, int}) and all(float(value).is_integer() for value in values):
        return "int", "all targets are whole numbers written as fractions: read as whole numbers"
    if kinds == {float, int}:
        return "float", ""
    names = {kind.__name__ for kind in kinds}
    return (names.pop() if len(names) == 1 and names <= set(TARGET_KINDS) else "other"), ""


def as_kind(value: Any, kind: Kind) -> Any:
    """Return a target in the kind of the training targets where it can be read so, and as it is where not.

    Args:
        value: A target, not missing.
        kind: One of `TARGET_KINDS`; for several targets those of each.

    Example:
        >>> as_kind("7", "int"), as_kind("seven", "int"), as_kind(7, "str"), as_kind("True", "bool")
        (7, 'seven', '7', True)
    """
    if isinstance(kind, str):
        return _AS.get(kind, _as_is)(value)
    return Cells({name: None if part is None else as_kind(part, kind[name]) for name, part in value.items()})


def as_number(value: Any) -> float | None:
    """Return a number, or a text that is one, as a fraction; nothing for anything else, true and false included.

    Args:
        value: A target, not missing.

    Example:
        >>> as_number(" 3.5e2 "), as_number(7), as_number("3,5"), as_number(True), as_number("nan")
        (350.0, 7.0, None, None, None)
    """
    if isinstance(value, str):
        text = value.strip()
        return float(text) if _NUMBER.fullmatch(text) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf


def is_missing(value: Any) -> bool:
    """Return whether a value is none: null, an empty or blank text, or not a number; of several values whether all are."""
    if value is None:
        return True
    if isinstance(value, Cells):
        return all(map(is_missing, value.values()))
    if isinstance(value, str):
        return not value.strip()
    return isinstance(value, float) and math.isnan(value)


def _as_is(value: Any) -> Any:
    return value


def _as_int(value: Any) -> Any:
    if isinstance(value, str) and _whole_text(value):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _as_bool(value: Any) -> Any:
    return _BOOL.get(value.lower(), value) if isinstance(value, str) else value


def _as_float(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_str(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else value


_AS = {"int": _as_int, "bool": _as_bool, "float": _as_float, "str": _as_str}


def _whole_text(text: str) -> bool:
    return _INT.fullmatch(text) is not None and -(2**63) <= int(text) < 2**63
