"""Which rows an artifact learnt from: enough to recognise them in other data, too little to read them.

`learnt_rows.u64` holds the first eight bytes of the SHA-256 of the input of every training and validation row (validation
chooses the weights), each once, ascending, little end first: 8 bytes a row. Two different inputs among a million share such a
number with a chance of 3e-8. The rows themselves cannot be read out of it; whether a row that somebody holds was learnt from
can be told, which is what it is for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regraft.artifact.files import FILES, Files
from regraft.artifact.store import Artifact
from regraft.data.fingerprint import value_digest
from regraft.types import Array

LEARNT_ROWS = "learnt_rows.u64"
_KEY = np.dtype("<u8")


def write_learnt_rows(folder: Path, keys: Iterable[Array], files: Files = FILES) -> None:
    """Write the file into a folder that is being filled.

    Args:
        folder: The folder.
        keys: Of each split that was learnt from one number a row (`data.split.Split.keys`).
        files: Changes the disk.
    """
    every = np.unique(np.concatenate([np.empty(0, dtype=_KEY), *keys]))
    files.write(folder / LEARNT_ROWS, every.astype(_KEY).tobytes())


def learnt_rows(artifact: Artifact | None) -> Array | None:
    """Return the numbers of the rows that an artifact learnt from, ascending; nothing where it does not keep them."""
    if artifact is None or LEARNT_ROWS not in artifact.manifest.files:
        return None
    return np.fromfile(artifact.path / LEARNT_ROWS, dtype=_KEY)


def are_learnt(raws: Sequence[Any], learnt: Array) -> Array:
    """Return which raw values were learnt from (N,), true or false.

    Args:
        raws: Inputs of rows, files that they name read; none missing.
        learnt: What `learnt_rows` returned.
    """
    keys = np.frombuffer(b"".join(value_digest(raw)[:8] for raw in raws), dtype=_KEY)
    places = np.searchsorted(learnt, keys)
    found: Array = learnt[np.minimum(places, len(learnt) - 1)] == keys if len(learnt) else np.zeros(len(keys), dtype=bool)
    return found


__all__ = ["LEARNT_ROWS", "are_learnt", "learnt_rows", "write_learnt_rows"]
