"""Where features may be held: memory, disk or nowhere, decided before any is computed and said in one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from regraft.data.kept import MB, free_disk_bytes, kept_files, prune
from regraft.training.cache.options import CacheOptions

Note = Callable[[str], None]

_MOST_MEMORY = 1024 * MB
_SHARE = 4
_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")
# Version 1 writes "no limit" as the largest number of pages, version 2 as "max".
_NO_LIMIT = 2**60


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a set of features takes.

    Args:
        total_bytes: Of all rows.
        missing_bytes: Of the rows that are not on disk yet.
        found: Files on disk that hold the others.
    """

    total_bytes: int
    missing_bytes: int
    found: frozenset[Path] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where features are held.

    Args:
        tier: "memory", "disk" or "off".
        writes: Whether what is computed is written to disk.
        why: The line that says so.
    """

    tier: str
    writes: bool
    why: str


def free_memory_bytes(
    meminfo: Path = _MEMINFO, membership: Path = _MEMBERSHIP, cgroups: Path = _CGROUPS, *, at_worst: bool = False
) -> int | None:
    """Return the bytes this process may still take: the least that the machine and any of its cgroups have left.

    Args:
        meminfo: The kernel's view of the machine.
        membership: The kernel's list of this process's cgroups.
        cgroups: Where the cgroup file systems are mounted.
        at_worst: Whether pages of files that were used lately count as free too, as the kernel takes them before it ends a
            process.

    Returns:
        Bytes, or None where the system does not say.
    """
    left = [int(line.split()[1]) * 1024 for line in _read(meminfo).splitlines() if line.startswith("MemAvailable:")]
    for line in _read(membership).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            left += _left(
                cgroups, path, ("memory.max", "memory.current", "inactive_file", *(["active_file"] if at_worst else []))
            )
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            left += _left(cgroups / "memory", path, (*files, *(["total_active_file"] if at_worst else [])))
    return min(left, default=None)


def _left(mount: Path, path: str, files: tuple[str, ...]) -> list[int]:
    # A limit of any group above this one holds as well. Inside a container the path may be the host's: then the mount is ours.
    limit_name, used_name, *reclaimable = files
    parts = [part for part in PurePosixPath(path).parts if part not in {"/", ".."}]
    found = []
    for depth in range(len(parts) + 1):
        folder = mount.joinpath(*parts[:depth])
        limit, used = _read(folder / limit_name).strip(), _read(folder / used_name).strip()
        if limit.isdecimal() and used.isdecimal() and int(limit) < _NO_LIMIT:
            # The pages of files that nobody used lately are counted as used, and given back when memory is asked for.
            stats = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines() if " " in line)
            given_back = [stats.get(name, "0").strip() for name in reclaimable]
            found.append(max(0, int(limit) - int(used) + sum(int(one) for one in given_back if one.isdecimal())))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""


def memory_budget_bytes(options: CacheOptions) -> int:
    """Return the bytes of features that may be held in memory."""
    if options.memory_mb is not None:
        return options.memory_mb * MB
    free = free_memory_bytes()
    return _MOST_MEMORY if free is None else min(_MOST_MEMORY, free // _SHARE)


def choose_place(need: Need, options: CacheOptions) -> Place:
    """Decide where features are held, and make room on disk where they are to be written.

    Args:
        need: What they take.
        options: What may be used.
    """
    memory = memory_budget_bytes(options)
    refusal = _disk_refusal(need, options)
    fits = need.total_bytes <= memory
    size = f"{_mb(need.total_bytes)} of features"
    of_memory = f"{_mb(memory)} of memory"
    if not fits and (refusal or not options.disk_mb):
        on_disk = refusal or "nothing may be kept on disk"
        return Place(tier="off", writes=False, why=f"off: {size} do not fit into {of_memory}, and {on_disk}")
    if fits:
        kept = f"not kept on disk: {refusal}" if refusal else "kept on disk for the next run"
        if not options.disk_mb:
            kept = "nothing is kept on disk"
        why = f"in memory: {size}, up to {of_memory} may be taken; {kept}"
        return Place(tier="memory", writes=not refusal and options.disk_mb > 0, why=why)
    why = f"on disk: {size} do not fit into {of_memory}, up to {options.disk_mb:,} MB may lie in {options.place}"
    return Place(tier="disk", writes=True, why=why)


def _disk_refusal(need: Need, options: CacheOptions) -> str:
    """Make room for what is missing, and return why there is none, or nothing."""
    if not options.disk_mb or not need.missing_bytes:
        return ""
    budget, missing = options.disk_mb * MB, need.missing_bytes
    files = kept_files(options.place)
    held = sum(kept.size_bytes for kept in files)
    own = sum(kept.size_bytes for kept in files if kept.path in need.found)
    if own + missing > budget:
        return f"they do not fit into the {_mb(budget)} of the cache folder"
    stays = min(budget, held + free_disk_bytes(options.place)) - missing
    if stays >= own:
        prune(options.place, max_bytes=stays, spare=need.found)
    free = free_disk_bytes(options.place)
    return "" if missing <= free else f"the disk of {options.place} has only {_mb(free)} to spare"


def _mb(size_bytes: int) -> str:
    return f"{-(-size_bytes // MB):,} MB"
