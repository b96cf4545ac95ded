"""What the cache may use, and what makes two sets of features the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from regraft.options import Field, PathText, options

FORMAT = 1
Megabytes = Annotated[int, Field(ge=0)]


@options
class CacheOptions:
    """What is kept of work that would only be done again. A megabyte is 1,000,000 bytes."""

    enabled: bool = True
    """Whether what is frozen is computed once a row; without, it is computed in every epoch and every run."""

    memory_mb: Megabytes | None = None
    """Features held in memory; by default a quarter of the free memory (cgroup counted), at most 1024."""

    disk_mb: Megabytes = 4096
    """Features and tokens kept on disk, of all runs together; the least recently used make room. 0 keeps nothing there."""

    dtype: Literal["fp32", "bf16"] = "fp32"
    """Numbers of the features; bf16 takes half the room and changes the third digit."""

    folder: PathText | None = None
    """Where they are kept; by default where the bases are (REGRAFT_CACHE, or ~/.cache/regraft)."""

    @property
    def place(self) -> Path:
        """The folder below which "features" and "tokens" lie."""
        from regraft.data.kept import cache_folder

        return Path(self.folder).expanduser() if self.folder else cache_folder()

    @property
    def disk_bytes(self) -> int:
        """Bytes that may lie there; 0 where nothing is kept."""
        return self.disk_mb * 10**6 if self.enabled else 0


@options
class PruneOptions:
    """What of the cache is shown, and removed."""

    prune: Annotated[bool, Field(json_schema_extra={"flag": "--prune"})] = False
    """Remove the least recently used files until the rest fits, and what killed runs have left; safe beside running fits."""

    max_mb: Annotated[int | None, Field(ge=0, json_schema_extra={"flag": "--max-mb"})] = None
    """With --prune: what may stay, in megabytes; the default of machine.cache.disk_mb if nothing else is said."""

    older_than_days: Annotated[float | None, Field(ge=0.0, json_schema_extra={"flag": "--older-than-days"})] = None
    """With --prune: remove what was not used for so many days."""

    all: Annotated[bool, Field(json_schema_extra={"flag": "--all"})] = False
    """With --prune: remove all features and tokens (bases stay)."""

    folder: Annotated[PathText | None, Field(json_schema_extra={"flag": "--folder"})] = None
    """The cache folder, where it is not the usual one (the option machine.cache.folder of a fit)."""


@dataclass(frozen=True, kw_only=True)
class CacheKey:
    """Everything that changes the features of a row, beside the row.

    Args:
        kind: What they are: "hidden" (one vector a position), "pooled" (one a row) or "layers" (one a layer of a row).
        weights: sha256 of the weights below the cut.
        preprocessing: Digest of how raw values become arrays (`regraft.modalities.digests.modality_digest`).
        cut: Where the network is cut ("layer 4 of 6").
        dtype: "fp32", or "bf16": then they are held as the upper halves of fp32 numbers.
        about: Name of the base, for people; not part of the digest.
    """

    kind: str
    weights: str
    preprocessing: str
    cut: str
    dtype: Literal["fp32", "bf16"]
    about: str

    @property
    def digest(self) -> str:
        """Name of the folder: 32 hexadecimal digits."""
        facts = {**asdict(self), "format": FORMAT}
        del facts["about"]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]

    def to_bytes(self) -> bytes:
        """Return the key as people may read it."""
        return (json.dumps({**asdict(self), "format": FORMAT}, indent=1, ensure_ascii=False) + "\n").encode()
