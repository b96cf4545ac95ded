"""The cells of a table: what a value is, read as a number, a category, yes or no, or a date. numpy only, one function a kind.

A missing value is None everywhere; a wrong one raises ValueError that says what was expected and what was found.
"""

from __future__ import annotations

import datetime
import decimal
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from regraft.errors import did_you_mean

Kind = Literal["number", "category", "boolean", "date"]
Cell = float | str | None

LARGEST = 1e30
"""Numbers beyond this have no place in 32 bits once they are multiplied with anything."""

MISSING = ("", "na", "n/a", "nan", "null", "none", "?", "-")
"""Texts, in small letters, that stand for nothing where a number, yes or no, or a date is expected."""

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_FOREIGN = re.compile(r"[+-]?[$€£¥]?\s*\d{1,3}([ ,.'’\u00a0]?\d{3})*([.,]\d+)?\s*[%€$£¥]?")
_CODE = re.compile(r"0\d+")
_BOOLEANS = ({"true": 1.0, "false": 0.0}, {"yes": 1.0, "no": 0.0}, {"t": 1.0, "f": 0.0}, {"y": 1.0, "n": 0.0})
_YES: Mapping[str, float] = {word: value for words in (*_BOOLEANS, {"1": 1.0, "0": 0.0}) for word, value in words.items()}
_PLAIN = (str, bool, int, float, datetime.date, decimal.Decimal, np.number, np.bool_)
_SHOWN = 40
_NAMED = 10


def is_blank(value: Any) -> bool:
    """Return whether a value is none: None, not a number, not a time, or an empty text."""
    if value is None:
        return True
    if isinstance(value, str):
        return not value or value.isspace()
    return bool(value != value) if isinstance(value, _PLAIN) else type(value).__name__ == "NAType"


def is_scalar(value: Any) -> bool:
    """Return whether a value can stand in a table: a text, a number, true or false, a date, or nothing."""
    return isinstance(value, _PLAIN) or is_blank(value)


def is_number(text: str) -> bool:
    """Return whether a text is a number as programs write it."""
    return _NUMBER.fullmatch(text.strip()) is not None


def is_foreign(text: str) -> bool:
    """Return whether a text is a number as people write it: with a comma, groups of three, a currency, percent."""
    return _FOREIGN.fullmatch(text.strip()) is not None


def is_code(text: str) -> bool:
    """Return whether a text is made of digits and begins with a zero that a number would lose."""
    return _CODE.fullmatch(text.strip()) is not None


def is_date(text: str) -> bool:
    """Return whether a text is a date, or a date and a time, as ISO 8601 writes them."""
    return _instant(text) is not None


def yes_or_no(texts: Collection[str]) -> bool:
    """Return whether texts are the two words of one way to say yes and no."""
    words = {text.strip().lower() for text in texts}
    return bool(words) and any(words <= pair.keys() for pair in _BOOLEANS)


def number(value: Any) -> float | None:
    """Return a value as a number.

    Example:
        >>> number("1.5"), number(2), number("NaN"), number(True)
        (1.5, 2.0, None, 1.0)
    """
    if is_blank(value):
        return None
    if isinstance(value, str):
        text = value.strip()
        if not is_number(text):
            if text.lower() in MISSING:
                return None
            raise _wrong(value, "a number such as 1.5" if is_foreign(text) else "a number")
        value = text
    elif isinstance(value, datetime.date) or not is_scalar(value):
        raise _wrong(value, "a number")
    found = float(value)
    if math.isinf(found):
        raise ValueError("an infinite number, where a finite one is expected")
    if abs(found) > LARGEST:
        raise ValueError(f"{found:g}, where a number up to {LARGEST:g} is expected")
    return found


def boolean(value: Any) -> float | None:
    """Return 1 for yes and 0 for no.

    Example:
        >>> boolean("Yes"), boolean(False), boolean("n/a")
        (1.0, 0.0, None)
    """
    if is_blank(value):
        return None
    text = value.strip().lower() if isinstance(value, str) else str(value).lower() if is_scalar(value) else ""
    if text in _YES:
        return _YES[text]
    if not isinstance(value, str) and isinstance(value, (float, np.floating, decimal.Decimal)) and value in (0, 1):
        return float(value)
    if isinstance(value, str) and text in MISSING:
        return None
    raise _wrong(value, "true or false")


def instant(value: Any) -> float | None:
    """Return a date as seconds since 1970; what names no time zone is taken as UTC.

    Example:
        >>> instant("1970-01-02"), instant("1970-01-01T01:00:00+01:00")
        (86400.0, 0.0)
    """
    if is_blank(value):
        return None
    if isinstance(value, str):
        found = _instant(value)
        if found is None:
            if value.strip().lower() in MISSING:
                return None
            raise _wrong(value, "a date such as 2024-12-31 or 2024-12-31T23:59")
        return found
    if not isinstance(value, datetime.date):
        raise _wrong(value, "a date such as 2024-12-31")
    return _seconds(value)


def category(value: Any) -> str | None:
    """Return a value as the text that names its category.

    Example:
        >>> category(" red "), category(3), category(3.0), category("3.0"), category(True), category("")
        ('red', '3', '3', '3', 'true', None)
    """
    if is_blank(value):
        return None
    if isinstance(value, str):
        text = value.strip()
        # Programs write whole numbers of a column with gaps as fractions.
        return text[:-2] if text.endswith(".0") and text[:-2].lstrip("-").isdigit() else text
    if not is_scalar(value):
        raise _wrong(value, "a text, a number, true or false")
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating, decimal.Decimal)):
        found = float(value)
        return str(int(found)) if found.is_integer() else repr(found)
    return value.isoformat() if isinstance(value, datetime.date) else str(value)


READ: Mapping[str, Callable[[Any], Cell]] = {"number": number, "category": category, "boolean": boolean, "date": instant}


def as_json(value: Any) -> str | float | int | bool | None:
    """Return a cell as a JSON value that is read as the same one."""
    if is_blank(value):
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (str, bool, int, float)):
        return value
    return value.isoformat() if isinstance(value, datetime.date) else float(value)


def misfit(raw: Any, kinds: Mapping[str, Kind]) -> str:
    """Return what is wrong with a row, naming the columns, or an empty string.

    Args:
        raw: A mapping from column to value; other columns are not looked at.
        kinds: Column -> kind.

    Example:
        >>> misfit({"age": "1,5"}, {"age": "number"})
        "the column 'age' holds '1,5', where a number such as 1.5 is expected"
    """
    if not isinstance(raw, Mapping):
        return f"a row with the columns {listed(kinds)} is expected, got {type(raw).__name__} ({raw!r:.40})"
    missing = [name for name in kinds if name not in raw]
    if missing:
        nearest = f"; {did_you_mean(missing[0], [str(name) for name in raw])}" if raw else ""
        return f"the column{'s' * (len(missing) > 1)} {listed(missing)} {'are' if len(missing) > 1 else 'is'} missing{nearest}"
    wrong, empty = [], bool(kinds)
    for name, kind in kinds.items():
        try:
            empty = READ[kind](raw[name]) is None and empty
        except ValueError as error:
            wrong.append(f"the column '{name}' holds {error}")
    if wrong:
        return "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} columns more" if len(wrong) > 3 else "")
    return "every value of the row is missing" if empty else ""


def listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    """Return names as messages show them."""
    shown = ", ".join(f"'{name}'" for name in list(names)[:_NAMED])
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _instant(text: str) -> float | None:
    text = text.strip()
    if len(text) < len("2024-W01") or not text[:4].isdigit():
        return None
    try:
        return _seconds(datetime.datetime.fromisoformat(text))
    except ValueError:
        return None


def _seconds(value: datetime.date) -> float:
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    if value.tzinfo is None:
        value = value.replace(tzinfo=datetime.UTC)
    return value.timestamp()


def _wrong(value: Any, expected: str) -> ValueError:
    shown = repr(value) if is_scalar(value) else f"{_called(value)} ({value!r:.30})"
    shown = shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + "..."
    return ValueError(f"{shown}, where {expected} is expected")


def _called(value: Any) -> str:
    if isinstance(value, (list, tuple, np.ndarray)):
        return "a list"
    return "an object" if isinstance(value, Mapping) else type(value).__name__
