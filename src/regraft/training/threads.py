"""How many threads the numeric libraries may use: what affinity and cgroup quota allow, not the cores in the box."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def available_cores(membership: Path = _MEMBERSHIP, cgroups: Path = _CGROUPS) -> int:
    """Return how many cores this process may use: the smaller of its affinity and its cgroup's CPU quota, at least 1.

    A container with a quota of 2 cores on a box of 64 still sees 64; 64 threads would then be stopped most of the time.

    Args:
        membership: The kernel's list of this process's cgroups.
        cgroups: Where the cgroup file systems are mounted.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(membership, cgroups)
    return max(1, cores if quota is None else min(cores, int(quota)))


def default_threads() -> int:
    """Return `OMP_NUM_THREADS` where the user has set it, else the cores this process may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) > 0 else available_cores()


def crowding(threads: int, cores: int) -> str:
    """Return a warning where more threads are asked for than there are cores, else nothing.

    Threads that wait for each other's core make matrix products several times slower, not faster.
    """
    if threads <= cores:
        return ""
    shared = f"{cores} core{'s' if cores > 1 else ''}"
    return f"{threads} threads share {shared}, which is slower than {cores}: leave machine.threads and OMP_NUM_THREADS out"


@contextmanager
def with_threads(count: int | None) -> Iterator[int]:
    """Let torch use so many threads inside the block, and as many as before after it.

    Args:
        count: Threads; `default_threads()` if not given.

    Yields:
        The number of threads in use.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or default_threads())
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def _quota(membership: Path, cgroups: Path) -> float | None:
    # A quota of any group above this one holds as well: the smallest counts.
    quotas: list[float] = []
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for folder in _upwards(cgroups, path):
                quota, _, period = _read(folder / "cpu.max").partition(" ")
                quotas += _cores(quota, period)
        elif "cpu" in controllers.split(","):
            for mount in (cgroups / controllers, cgroups / "cpu"):
                for folder in _upwards(mount, path):
                    quotas += _cores(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))
    return min(quotas, default=None)


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    # Inside a container the path may be the host's: what is not there is simply empty, and the mount itself is ours.
    parts = [part for part in PurePosixPath(path).parts if part not in {"/", ".."}]
    for depth in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:depth])


def _cores(quota: str, period: str) -> list[float]:
    quota, period = quota.strip(), period.strip()
    return [int(quota) / int(period)] if quota.isdecimal() and period.isdecimal() and int(quota) and int(period) else []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
