"""Raw series: numbers in whatever form they came, read as one array with its times, or why that cannot be. numpy only.

Shapes: T steps, K channels.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regraft.types import Array, FloatArray

VALUES, TIMES = "values", "times"
LARGEST = 1e30
"""Numbers beyond this have no place in 32 bits once they are multiplied with anything."""

_NPY = b"\x93NUMPY"
_NUMBERS = frozenset({int, float, bool, type(None)})
_AXES = 2


@dataclass(frozen=True)
class Measured:
    """A series as it was measured.

    Args:
        values_TK: Numbers, float64; NaN where nothing was measured.
        times_T: When, increasing, in any unit; None where steps are equally far apart.
    """

    values_TK: FloatArray
    times_T: FloatArray | None = None

    @property
    def channels(self) -> int:
        """Numbers a step."""
        return int(self.values_TK.shape[1])

    def __len__(self) -> int:
        return len(self.values_TK)


def unreadable(raw: object) -> str:
    """Return why a raw value is no series, or an empty string."""
    try:
        read(raw)
    except ValueError as error:
        return str(error)
    return ""


def read(raw: object) -> Measured:
    """Return a series out of any of its forms.

    Args:
        raw: Numbers (T,), numbers a channel (T, K) as lists or a numpy array, the bytes of a .npy file, JSON text of either, or
            a mapping {"values": ..., "times": ...}; None and NaN stand for what was not measured. Times are numbers, or dates
            as ISO 8601 says them (read as seconds).

    Raises:
        ValueError: It is none of these; says why.

    Example:
        >>> read("[1.0, null, 3]").values_TK.ravel().tolist()
        [1.0, nan, 3.0]
    """
    found = _unpacked(raw)
    times: object = None
    if isinstance(found, Mapping):
        if VALUES not in found:
            raise ValueError(
                f'a series as an object has "{VALUES}" and perhaps "{TIMES}", got {", ".join(map(repr, found))[:80]}'
            )
        times, found = found.get(TIMES), _unpacked(found[VALUES])
    values_TK = _checked(_numbers(found))
    return Measured(values_TK, None if times is None else _times(times, len(values_TK)))


def _unpacked(raw: object) -> object:
    if isinstance(raw, str):
        try:
            return json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the text is no series in JSON, such as [1.0, null, 2.5]: {raw[:40]!r}") from error
    if isinstance(raw, bytes):
        if not raw.startswith(_NPY):
            raise ValueError("the bytes are no array in the .npy format")
        try:
            return np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"the array in the .npy format is damaged: {str(error)[:80]}") from error
    return raw


def _numbers(found: object) -> FloatArray:
    """Return numbers (T,) or (T, K) as float64."""
    if isinstance(found, np.ndarray):
        if found.dtype.kind in "biuf":
            return found.astype(np.float64)
        if found.dtype.kind != "O":
            raise ValueError(f"a series holds numbers, got an array of {found.dtype}")
        found = found.tolist()
    if not isinstance(found, list | tuple):
        raise ValueError(f"a series is expected, such as [1.0, 2.5], got {type(found).__name__} ({str(found)[:40]})")
    nested = [place for place, value in enumerate(found) if isinstance(value, list | tuple | np.ndarray)]
    if not nested:
        _only_numbers(found)
        return _floats(found)
    return _steps(found, nested[0])


def _steps(found: Sequence[Any], first: int) -> FloatArray:
    """Return steps of several channels (T, K); a step may be missing as a whole."""
    channels = len(found[first])
    for place, step in enumerate(found):
        if step is None:
            continue
        if not isinstance(step, list | tuple | np.ndarray):
            raise ValueError(f"the series mixes numbers and lists: step {place + 1} is {str(step)[:40]}")
        if len(step) != channels:
            got = f"step {place + 1} has {len(step)} numbers, step {first + 1} has {channels}"
            raise ValueError(f"the series is ragged: {got}")
    if any(isinstance(step, np.ndarray) and step.ndim != 1 for step in found):
        raise ValueError("a series has steps and channels, got more axes")
    missing = [None] * channels
    rows = [missing if step is None else list(step) for step in found]
    _only_numbers(list(itertools.chain.from_iterable(rows)))
    return _floats(rows)


def _only_numbers(values: Sequence[Any]) -> None:
    odd = set(map(type, values)) - _NUMBERS
    if not any(not issubclass(kind, np.number | np.bool_ | int | float) for kind in odd):
        return
    place = next(i for i, v in enumerate(values) if not isinstance(v, np.number | np.bool_ | int | float | None))
    if isinstance(values[place], list | tuple):
        raise ValueError("a series has steps and channels, got lists inside the steps")
    raise ValueError(f"a series holds numbers, got {type(values[place]).__name__} ({str(values[place])[:40]!r})")


def _floats(values: Sequence[Any]) -> FloatArray:
    try:
        return np.array(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"a series holds numbers: {str(error)[:80]}") from error


def _checked(values: FloatArray) -> FloatArray:
    if values.ndim not in (1, _AXES):
        raise ValueError(f"a series has steps and perhaps channels, got an array of {values.ndim} axes")
    if not values.size:
        raise ValueError("the series is empty")
    values_TK = values.reshape(len(values), -1)
    if np.isinf(values_TK).any():
        raise ValueError(f"the series holds an infinite number, at step {_first(np.isinf(values_TK))}")
    missing = np.isnan(values_TK)
    if missing.all():
        raise ValueError("every value of the series is missing")
    large = np.abs(np.where(missing, 0.0, values_TK)) > LARGEST
    if large.any():
        raise ValueError(f"the series holds a number beyond {LARGEST:g}, at step {_first(large)}")
    return values_TK


def _first(found_TK: Array) -> int:
    return int(np.flatnonzero(found_TK.any(axis=1))[0]) + 1


def _times(raw: object, steps: int) -> FloatArray:
    found = raw.tolist() if isinstance(raw, np.ndarray) and raw.dtype.kind == "O" else raw
    try:
        kind = np.asarray(found).dtype.kind
        dates = kind in "UM"
        times_T = (
            np.array(found, dtype="datetime64[us]").astype(np.float64) / 1e6 if dates else np.array(found, dtype=np.float64)
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"the times of a series are numbers or dates: {str(error)[:80]}") from error
    if times_T.ndim != 1 or len(times_T) != steps:
        raise ValueError(f"a series has one time a step, got {times_T.size} times and {steps} steps")
    if not np.isfinite(times_T).all() or (dates and np.isnat(np.array(found, dtype="datetime64[us]")).any()):
        raise ValueError("a time of the series is missing or infinite")
    back = np.flatnonzero(np.diff(times_T) <= 0)
    if len(back):
        place = int(back[0]) + 1
        raise ValueError(
            f"the times of a series increase, got {times_T[place]:g} at step {place + 1} after {times_T[place - 1]:g}"
        )
    return times_T


def as_json(found: Measured) -> Any:
    """Return a series as JSON that `read` reads as the same one: numbers, or numbers a channel; None where nothing was."""
    values_TK = found.values_TK
    plain = [[None if value != value else value for value in step] for step in values_TK.tolist()]
    values: Any = [step[0] for step in plain] if found.channels == 1 else plain
    return values if found.times_T is None else {VALUES: values, TIMES: found.times_T.tolist()}


def looks_like_one(value: object) -> bool:
    """Return whether a value looks like a series: a list of numbers in one of its forms, not a single number, not a text."""
    if isinstance(value, str) and not value.lstrip().startswith(("[", "{")):
        return False
    return not unreadable(value)
