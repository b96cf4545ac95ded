"""Rows of numbers whose features can be made again from their number, and a cache folder to put them in."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from regraft.training.cache import CacheKey, CacheOptions, Ragged, open_ragged

WIDTH = 6


def key(**changes) -> CacheKey:
    facts = {
        "kind": "hidden",
        "weights": "w",
        "preprocessing": "p",
        "cut": "layer 4 of 6",
        "dtype": "fp32",
        "about": "minilm",
    }
    return CacheKey(**{**facts, **changes})


def digests(names) -> np.ndarray:
    joined = b"".join(hashlib.blake2b(str(name).encode(), digest_size=16).digest() for name in names)
    return np.frombuffer(joined, np.uint8).reshape(-1, 16)


def features(name, length: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.blake2b(str(name).encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).standard_normal((length, WIDTH)).astype(np.float32)


@dataclass
class Rows:
    """What is asked for: names stand for raw values."""

    names: list
    lengths: np.ndarray
    folder: Path
    notes: list[str] = field(default_factory=list)

    def options(self, **changes) -> CacheOptions:
        return CacheOptions(**{"memory_mb": 100, "disk_mb": 100, "folder": str(self.folder), **changes})

    def open(self, cache_key: CacheKey | None = None, **changes) -> Ragged | None:
        options = self.options(**changes)
        return open_ragged(cache_key or key(), digests(self.names), self.lengths, (WIDTH,), options, self.notes.append)

    def values(self, rows) -> np.ndarray:
        parts = [features(self.names[row], int(self.lengths[row])) for row in rows]
        return np.concatenate(parts) if parts else np.zeros((0, WIDTH), np.float32)

    def fill(self, ragged: Ragged, step: int = 7) -> list[int]:
        """Put what is missing, in an order of its own; return what was put."""
        missing = np.random.default_rng(3).permutation(ragged.missing)
        for start in range(0, len(missing), step):
            some = missing[start : start + step]
            if not ragged.put(some, self.values(some)):
                break
        return sorted(missing.tolist())

    def check(self, ragged: Ragged, orders=None) -> None:
        count = len(self.names)
        rng = np.random.default_rng(5)
        for rows in orders or [np.arange(count), rng.permutation(count), rng.integers(0, count, 9), np.array([count - 1])]:
            got = ragged.gather(rows)
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got, self.values(rows))

    def files(self, suffix: str = ".ragged") -> list[Path]:
        return sorted(self.folder.rglob(f"*{suffix}"))


def some_rows(folder: Path, count: int = 40, seed: int = 0, first: int = 0) -> Rows:
    lengths = np.random.default_rng(seed).integers(1, 9, size=count)
    return Rows([f"row {first + i}" for i in range(count)], lengths, folder)
