"""Say in 64 hexadecimal digits which rows a result came from, and in which order they stood.

The digest of a row is SHA-256 over the SHA-256 of each of its values, so that no value can run into the next. Rows are joined
in two ways:

- `rows_digest` does not depend on the order: the sum of the row digests modulo 2**256. A sum and not an exclusive or, because
  a row that stands twice would vanish from an exclusive or ({a, b, b} and {a} would be the same data). The multiset sum is
  the additive hash of Bellare and Micciancio (EUROCRYPT 1997); with this modulus it guards against accidents and edits, not
  against someone who searches for a collision.
- `order_digest` is SHA-256 over the row digests one after another.

A value counts as its text: the label 1 from a Parquet file and "1" from a CSV file are the same row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from regraft.types import Array

DIGEST_BYTES = 32
_NONE = bytes(DIGEST_BYTES)


def value_bytes(value: Any) -> bytes:
    """Return the bytes by which a value that is not missing counts.

    Example:
        >>> value_bytes("1") == value_bytes(1), value_bytes(True), value_bytes(0.1)
        (True, b'true', b'0.1')
        >>> value_bytes({"a": "1"}) == value_bytes({"a": 1})
        True
    """
    if value.__class__ is str:
        text: str = value
        return text.encode()
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, (int, float)):
        return repr(value).encode()
    if isinstance(value, dict) and not any(isinstance(part, (list, dict)) for part in value.values()):
        # A row of several columns: each of them counts as its text.
        value = {key: None if part is None else value_bytes(part).decode(errors="replace") for key, part in value.items()}
    return json.dumps(value, default=str, ensure_ascii=False, sort_keys=True).encode()


def value_digest(value: Any) -> bytes:
    """Return the SHA-256 of a value (32 bytes); zeros for a missing one."""
    return _NONE if value is None else hashlib.sha256(value_bytes(value)).digest()


def row_digest(values: Sequence[Any]) -> bytes:
    """Return the digest of a row (32 bytes).

    Args:
        values: The values of the row, columns in a fixed order.
    """
    return hashlib.sha256(b"".join(map(value_digest, values))).digest()


def sum_digests(digests_N32: Array) -> int:
    """Return the sum of N digests modulo 2**256.

    Args:
        digests_N32: Digests as bytes (N, 32), uint8, little end first.
    """
    # Eight sums of 32-bit limbs in 64 bits cannot overflow below 2**32 rows.
    limbs_N8 = np.ascontiguousarray(digests_N32).view("<u4").reshape(-1, 8)
    totals = limbs_N8.sum(axis=0, dtype=np.uint64)
    return sum(int(total) << (32 * i) for i, total in enumerate(totals)) % 2**256


def rows_digest(rows: Iterable[Sequence[Any]]) -> str:
    """Return the digest of rows that does not depend on their order; a row that stands twice counts twice.

    Example:
        >>> rows_digest([("a", 1), ("b", 2)]) == rows_digest([("b", 2), ("a", 1)])
        True
        >>> rows_digest([("a", 1)]) == rows_digest([("a", 1), ("a", 1)])
        False
    """
    return f"{sum(int.from_bytes(row_digest(row), 'little') for row in rows) % 2**256:064x}"


def order_digest(rows: Iterable[Sequence[Any]]) -> str:
    """Return the digest of rows in their order."""
    joined = hashlib.sha256()
    for row in rows:
        joined.update(row_digest(row))
    return joined.hexdigest()
