"""Target values in the type they mean: whole numbers and true/false out of texts, whole numbers out of fractions."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

_INT = re.compile(r"0|-?[1-9][0-9]{0,18}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BOOL = {"true": True, "false": False}

TARGET_KINDS = ("str", "int", "bool", "float", "other")
"""What targets can be: the names of the Python types, and "other" for what is none of them."""


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


def as_kind(value: Any, kind: str) -> Any:
    """Return a target in the kind of the training targets where it can be read so, and as it is where not.

    Args:
        value: A target, not missing.
        kind: One of `TARGET_KINDS`.

    Example:
        >>> as_kind("7", "int"), as_kind("seven", "int"), as_kind(7, "str"), as_kind("True", "bool")
        (7, 'seven', '7', True)
    """
    return _AS.get(kind, _as_is)(value)


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
    """Return whether a value is none: null, an empty or blank text, or not a number."""
    if value is None:
        return True
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
