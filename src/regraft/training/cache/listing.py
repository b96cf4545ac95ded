"""What is kept, by key, for people; and making room by hand."""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from regraft.data.kept import MB, Kept, cache_folder, kept_files, prune, read_about
from regraft.errors import OptionsError, Problem
from regraft.training.cache.options import CacheOptions, PruneOptions
from regraft.training.cache.segment import SUFFIX, rows_in

_DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """The files of one key.

    Args:
        kind: "features" or "tokens".
        key: Name of the folder.
        about: What was computed ("minilm, hidden, layer 4 of 6, fp32"); empty if nothing says so.
        rows: Rows it holds.
        size_bytes: Bytes on disk.
        used: When it was last used, ISO 8601.
    """

    kind: str
    key: str
    about: str
    rows: int
    size_bytes: int
    used: str


@dataclass(frozen=True, kw_only=True)
class CacheListing:
    """What is kept.

    Args:
        folder: The cache folder.
        entries: By key, the last used first.
        budget_bytes: What may lie there by default.
        removed_files: Files that were removed now.
        freed_bytes: Their bytes.
    """

    folder: str
    entries: tuple[CacheEntry, ...]
    budget_bytes: int
    removed_files: int
    freed_bytes: int

    @property
    def size_bytes(self) -> int:
        """Bytes of all entries."""
        return sum(entry.size_bytes for entry in self.entries)

    def to_json(self) -> dict[str, Any]:
        """Return the listing as a JSON object."""
        return {**asdict(self), "entries": [asdict(entry) for entry in self.entries], "size_bytes": self.size_bytes}


def listing(options: PruneOptions) -> CacheListing:
    """Remove what is asked for and say what is kept.

    Raises:
        OptionsError: The options contradict each other.
    """
    _check(options)
    folder = Path(options.folder).expanduser() if options.folder else cache_folder()
    budget = CacheOptions().disk_mb * MB
    removed = _prune(folder, options, budget) if options.prune else []
    return CacheListing(
        folder=str(folder),
        entries=tuple(entries(folder)),
        budget_bytes=budget,
        removed_files=len(removed),
        freed_bytes=sum(kept.size_bytes for kept in removed),
    )


def entries(folder: Path) -> list[CacheEntry]:
    """Return what lies below a cache folder, by key, the last used first."""
    by_key: dict[tuple[str, Path], list[Kept]] = {}
    for kept in kept_files(folder):
        by_key.setdefault((kept.kind, kept.path.parent), []).append(kept)
    found = sorted(by_key.items(), key=lambda item: max(kept.used for kept in item[1]), reverse=True)
    return [_entry(kind, place, files) for (kind, place), files in found]


def _entry(kind: str, place: Path, files: list[Kept]) -> CacheEntry:
    about = read_about(place)
    words = [str(about[name]) for name in ("about", "kind", "cut", "dtype") if about.get(name) and about[name] != kind]
    in_files = sum(rows_in(kept.path) for kept in files if kept.path.suffix == SUFFIX)
    rows = about.get("rows")
    used = datetime.datetime.fromtimestamp(max(kept.used for kept in files), tz=datetime.UTC)
    return CacheEntry(
        kind=kind,
        key=place.name,
        about=", ".join(words),
        rows=rows if isinstance(rows, int) else in_files,
        size_bytes=sum(kept.size_bytes for kept in files),
        used=used.isoformat(timespec="seconds"),
    )


def _check(options: PruneOptions) -> None:
    limits = {"all": options.all, "max_mb": options.max_mb is not None, "older_than_days": options.older_than_days is not None}
    given = [name for name, is_given in limits.items() if is_given]
    if given and not options.prune:
        says = "say" if len(given) > 1 else "says"
        what = f"{' and '.join(given)} {says} what to remove, but nothing is to be removed"
        raise OptionsError(Problem(what=what, where="regraft cache", fix="add --prune, or leave it out"))
    if options.all and len(given) > 1:
        others = " and ".join(name for name in given if name != "all")
        says = "say" if len(given) > 2 else "says"
        what = f"all is to be removed, and {others} {says} what may stay"
        raise OptionsError(Problem(what=what, where="regraft cache", fix=f"leave out all, or {others}"))


def _prune(folder: Path, options: PruneOptions, budget: int) -> list[Kept]:
    if options.all:
        return prune(folder, max_bytes=0)
    older = None if options.older_than_days is None else options.older_than_days * _DAY_S
    if options.max_mb is not None:
        return prune(folder, max_bytes=options.max_mb * MB, older_than_s=older)
    return prune(folder, max_bytes=budget if older is None else None, older_than_s=older)
