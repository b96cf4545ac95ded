"""What makes two raw values, and two preprocessings, the same: names for what was computed from them.

Unlike the fingerprint of a data set, where the label 1 of a Parquet file is the "1" of a CSV file, values of different types
are different here: a modality may treat them differently.
"""

from __future__ import annotations

import datetime
import decimal
import fractions
import hashlib
import json
import os
import pathlib
import struct
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from regraft.modalities.modality import Modality
from regraft.types import Array
from regraft.version import __version__

DIGEST_BYTES = 16
_SAID_BY_TEXT = (
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    fractions.Fraction,
    uuid.UUID,
    pathlib.PurePath,
    complex,
)


def row_digests(raws: Sequence[Any]) -> Array:
    """Return the digests of raw values.

    BLAKE2b with 128 bits over the bytes of a value and a mark of its type, nested values with their lengths, so that no two
    different values give the same bytes. A value of a type that is not known here gets a digest that nothing else ever has:
    what is computed from it is never found again, and never wrong.

    Args:
        raws: Strings, bytes, numbers, None, dates, numpy arrays; lists, tuples and mappings of these.

    Returns:
        (N, 16), uint8.

    Example:
        >>> one, two, text = row_digests([1, 1, "1"])
        >>> bool((one == two).all()), bool((one == text).all())
        (True, False)
    """
    joined = b"".join([hashlib.blake2b(tagged(raw), digest_size=DIGEST_BYTES).digest() for raw in raws])
    return np.frombuffer(joined, dtype=np.uint8).reshape(-1, DIGEST_BYTES)


def tagged(value: Any) -> bytes:
    """Return bytes that no other value has."""
    if value.__class__ is str:
        try:
            return b"s" + value.encode()
        except UnicodeEncodeError:  # half a character; no well-formed text has these bytes
            return b"s" + value.encode("utf-8", "surrogatepass")
    simple = _simple(value)
    if simple is not None:
        return simple
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, Mapping):
        pairs = [part for pair in value.items() for part in pair]
        return b"m" + _nested(pairs)
    if isinstance(value, list | tuple):
        return (b"l" if isinstance(value, list) else b"u") + _nested(value)
    if isinstance(value, _SAID_BY_TEXT):
        return b"o" + _nested([type(value).__qualname__, repr(value)])
    return b"?" + os.urandom(32)


def _simple(value: Any) -> bytes | None:
    if value is None:
        return b"n"
    if isinstance(value, np.generic):
        return _array(np.asarray(value), mark=b"g")
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, int):
        return b"i%d" % value
    if isinstance(value, float):
        return b"d" + struct.pack("<d", value)
    if isinstance(value, bytes | bytearray | memoryview):
        return b"b" + bytes(value)
    return b"s" + value.encode("utf-8", "surrogatepass") if isinstance(value, str) else None


def _array(value: Array, mark: bytes = b"a") -> bytes:
    if value.dtype.hasobject:
        return mark + _nested(["object", list(value.shape), value.reshape(-1).tolist()])
    return mark + _nested([np.lib.format.dtype_to_descr(value.dtype).__repr__(), list(value.shape), value.tobytes()])


def _nested(values: Sequence[Any]) -> bytes:
    parts = [tagged(value) for value in values]
    return b"".join([b"%d:" % len(part) + part for part in parts])


def modality_digest(modality: Modality) -> str:
    """Return the digest of a preprocessing: SHA-256 over its `spec` and the files that it saves.

    The versions of what runs it belong to it: a later tokenizer library may cut the same text differently.

    Args:
        modality: Opened, as it encodes.

    Returns:
        64 hexadecimal digits; they change with every option that changes what comes out.
    """
    versions = {"regraft": __version__, **{name: metadata.version(name) for name in modality.libraries}}
    facts = {"modality": modality.name, "spec": modality.spec(), "versions": versions}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=True).encode())
    with tempfile.TemporaryDirectory(prefix="regraft-modality-") as name:
        folder = Path(name)
        modality.save(folder)
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"\n{path.relative_to(folder).as_posix()} {content}".encode())
    return digest.hexdigest()
