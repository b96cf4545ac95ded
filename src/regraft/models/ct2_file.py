"""CTranslate2's `model.bin`, read without CTranslate2. Numpy only.

The format (version 6, https://github.com/OpenNMT/CTranslate2, python/ctranslate2/specs/model_spec.py, `_serialize`), little
endian: version u32; name of the specification; its revision u32; number of variables u32; for each its name, rank u8, sides
u32, type u8, bytes u32, the values; number of aliases u32; for each its name and the variable that it stands for. A name is a
length u16 and so many bytes, the last of them zero.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regraft.errors import BaseError, Problem
from regraft.types import Array

VERSIONS = range(5, 7)
_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_LIMIT_VARIABLES = 50_000
_LIMIT_RANK = 8
_LIMIT_BYTES = 16 * 2**30


@dataclass(frozen=True)
class Ct2File:
    """What is in a `model.bin`.

    Args:
        specification: Name of the layout ("WhisperSpec").
        revision: Its revision.
        variables: Name -> array; aliases hold the same array.
    """

    specification: str
    revision: int
    variables: dict[str, Array]


class _Cursor:
    """Read values one after the other, never beyond the end."""

    def __init__(self, content: bytes) -> None:
        self.content = memoryview(content)
        self.place = 0

    def take(self, count: int) -> memoryview:
        if count > len(self.content) - self.place:
            raise ValueError(f"{count} bytes are announced at byte {self.place}, and {len(self.content) - self.place} are left")
        self.place += count
        return self.content[self.place - count : self.place]

    def number(self, kind: str) -> int:
        (value,) = struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))
        return int(value)

    def text(self) -> str:
        raw = bytes(self.take(self.number("H")))
        if not raw.endswith(b"\0"):
            raise ValueError(f"a name at byte {self.place} does not end with a zero")
        return raw[:-1].decode("utf-8")


def read_ct2(path: Path) -> Ct2File:
    """Return what a `model.bin` holds.

    Args:
        path: The file.

    Raises:
        BaseError: It is not this format, of another version, or damaged.
    """
    try:
        if path.stat().st_size > _LIMIT_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes, at most {_LIMIT_BYTES} are taken")
        return _read(_Cursor(path.read_bytes()))
    except (ValueError, OSError) as error:
        what, fix = "the weights are not in CTranslate2's format, or damaged", "fetch the file again"
        raise BaseError(Problem(what=what, where=str(path), got=str(error)[:200], fix=fix)) from None


def _read(cursor: _Cursor) -> Ct2File:
    version = cursor.number("I")
    if version not in VERSIONS:
        raise ValueError(f"version {version}; versions {VERSIONS[0]} to {VERSIONS[-1]} are read")
    specification, revision = cursor.text(), cursor.number("I")
    variables: dict[str, Array] = {}
    for _ in range(_count(cursor)):
        name = cursor.text()
        variables[name] = _array(cursor, name)
    for _ in range(_count(cursor)):
        alias, name = cursor.text(), cursor.text()
        if name not in variables:
            raise ValueError(f"'{alias}' stands for '{name}', which is not there")
        variables[alias] = variables[name]
    if cursor.place != len(cursor.content):
        raise ValueError(f"{len(cursor.content) - cursor.place} bytes are left over")
    return Ct2File(specification, revision, variables)


def _count(cursor: _Cursor) -> int:
    count = cursor.number("I")
    if count > _LIMIT_VARIABLES:
        raise ValueError(f"{count} variables, at most {_LIMIT_VARIABLES} are taken")
    return count


def _array(cursor: _Cursor, name: str) -> Array:
    rank = cursor.number("B")
    if rank > _LIMIT_RANK:
        raise ValueError(f"'{name}' has {rank} axes")
    shape = [cursor.number("I") for _ in range(rank)]
    kind, size = cursor.number("B"), cursor.number("I")
    if kind not in _TYPES:
        raise ValueError(f"'{name}' has type {kind}, which is not read")
    dtype = np.dtype(_TYPES[kind]).newbyteorder("<")
    if size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"'{name}' has {size} bytes for shape {shape} of {dtype.name}")
    return np.frombuffer(cursor.take(size), dtype=dtype).reshape(shape)
