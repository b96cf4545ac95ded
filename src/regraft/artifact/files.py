"""The only place of this room that writes to a disk: every write is synced, every refusal of the machine becomes one error.

`Files` is a class so that a test can put a disk that fails at any chosen moment in its place.

What a file system has to do: rename a folder in one step, as all local ones do, and NFS and SMB on their servers. What it need
not do: lock files (then the process that the lock names is looked for), swap two folders (then the old one steps aside, and
comes back after a cut), sync files or folders (then what stands may be gone after a power cut, never half there), answer a
rename whose answer was lost on a network (then what stands is looked at).
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from regraft.errors import MachineError, Problem, RegraftError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_OS_ERROR = re.compile(r"os error (\d+)")
_NO_SYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What a system says where a disk or a share of it is full."""
_FIXES = {
    errno.ENOSPC: "free some space on this file system, or write somewhere else",
    errno.EDQUOT: "your disk quota is used up: free some space, or write somewhere else",
    errno.EFBIG: "the file system or a limit of this process allows no larger file: write somewhere else or raise the limit",
    errno.EROFS: "the file system is read-only: write somewhere else",
    errno.EACCES: "give this user the right to write there, or write somewhere else",
    errno.EPERM: "give this user the right to write there, or write somewhere else",
    errno.EIO: "the disk reports a fault: check it (dmesg, smartctl) and write somewhere else",
}


class Files:
    """Change the disk. Every method either does its work durably or raises OSError."""

    def make_folder(self, path: Path, mode: int = 0o777) -> None:
        """Make one folder; it must not exist."""
        path.mkdir(mode=mode)

    def write(self, path: Path, content: bytes) -> None:
        """Write a new file and sync it; it must not exist."""
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            _sync(file.fileno())

    def pour(self, path: Path, parts: Iterable[bytes | memoryview]) -> tuple[int, str]:
        """Write a new file piece by piece without waiting for the disk (`sync` does); returns its bytes and their sha256."""
        digest, size = hashlib.sha256(), 0
        with path.open("xb") as file:
            for part in parts:
                file.write(part)
                digest.update(part)
                size += len(part)
        return size, digest.hexdigest()

    def replace(self, source: Path, target: Path) -> None:
        """Give a file the name of another, which it takes the place of in one step."""
        source.replace(target)

    def give_rights(self, path: Path, mode: int) -> None:
        """Set who may read and write a file."""
        path.chmod(mode)

    def sync(self, path: Path) -> None:
        """Make sure that a file's content, or a folder's list of names, is on the disk, where the file system can do that."""
        handle = os.open(path, os.O_RDONLY)
        try:
            _sync(handle)
        finally:
            os.close(handle)

    def rename(self, source: Path, target: Path) -> None:
        """Give a folder another name; `target` must be absent or an empty folder."""
        try:
            source.rename(target)
        except FileNotFoundError:
            # A network file system asks again where an answer was lost, and is told that there is nothing to rename any more.
            if not target.is_dir() or source.exists() or not any(target.iterdir()):
                raise

    def exchange(self, one: Path, other: Path) -> bool:
        """Swap two folders in one step; returns False where the system cannot do that."""
        return _renameat2(one, other)

    def remove(self, path: Path) -> None:
        """Remove a folder and everything in it; what cannot be removed now is swept by a later run."""
        shutil.rmtree(path, ignore_errors=True)


FILES = Files()


def _sync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _renameat2(one: Path, other: Path) -> bool:
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM}:
        return False
    raise OSError(code, os.strerror(code), str(other))


def give_ordinary_rights(root: Path, files: Files = FILES) -> None:
    """Give every file under `root` the rights that an ordinary new file would have.

    Libraries differ in what they leave (safetensors: readable by its owner alone). What the umask leaves is read from `root`, a
    folder that was just made: asking for the umask means setting it, for every thread of the process.
    """
    mode = root.stat().st_mode & 0o666
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder) / name
            if not path.is_symlink() and path.stat().st_mode & 0o777 != mode:
                files.give_rights(path, mode)


def sync_tree(root: Path, files: Files = FILES) -> None:
    """Sync every file and folder under `root`, and `root` itself, deepest first."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            files.sync(Path(folder) / name)
        files.sync(Path(folder))


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def machine_errors(doing: str, where: Path) -> Iterator[None]:
    """Turn a full, broken or closed disk into a `MachineError` that says what was going on.

    Args:
        doing: What was being done ("writing the artifact").
        where: The place that was being written, as the user knows it.
    """
    try:
        yield
    except RegraftError:
        raise
    except Exception as error:
        code = errno_of(error)
        if code is None:
            raise
        raise machine_error(doing, where, code, str(error)) from error


def machine_error(doing: str, where: Path, code: int, text: str) -> MachineError:
    """Return the error for a refusal of the operating system."""
    fix = _FIXES.get(code, "see the system's message above, then run the same command again")
    got = os.strerror(code) if code else text
    return MachineError(Problem(what=f"the machine gave up while {doing}", where=str(where), got=got, fix=fix))


def errno_of(error: BaseException) -> int | None:
    """Return the system's error number; the Rust writers (safetensors, tokenizers) only tell it in their text."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen.errno or 0
        told = _OS_ERROR.search(str(seen))
        if told:
            return int(told.group(1))
        seen = seen.__cause__
    return None


def stage_prefix(out: Path) -> str:
    """Return how the names of the staging folders of `out` begin."""
    return f".{out.name}.stage-"


def stage_name(out: Path) -> str:
    """Return a new name for a staging folder, which says which process owns it: host, process id, its start time, chance."""
    return f"{stage_prefix(out)}{owner()}-{secrets.token_hex(4)}"


def owner() -> str:
    """Return what tells this process from every other one: host, process id, its start time."""
    pid = os.getpid()
    return f"{_host()}-{pid}-{_started(pid)}"


def alive(who: str) -> bool:
    """Return whether the process that `owner` named lives; of another host nobody knows, and it counts as alive."""
    host, _, rest = who.partition("-")
    pid, _, started = rest.partition("-")
    return bool(pid.isdigit()) and (host != _host() or _alive(int(pid), started))


def sweep_stages(out: Path, files: Files = FILES) -> list[Path]:
    """Remove staging folders beside `out` whose process on this machine has died; returns them.

    A process id alone is not an identity, because ids are used again: the start time tells a successor from the owner.
    """
    swept = []
    prefix = stage_prefix(out)
    with suppress(FileNotFoundError):
        for path in sorted(out.parent.iterdir()):
            parts = path.name.removeprefix(prefix).split("-")
            ours = path.name.startswith(prefix) and len(parts) == 4 and parts[1].isdigit() and path.is_dir()
            if ours and parts[0] == _host() and not _alive(int(parts[1]), parts[2]):
                files.remove(path)
                swept.append(path)
    return swept


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _started(pid: int) -> str:
    """Return when a process started (clock ticks since boot), or "0" where the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "0"
    # Field 22; the second field is the command in brackets and may hold spaces and brackets itself.
    return stat.rpartition(")")[2].split()[19]


def _alive(pid: int, started: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return started == "0" or _started(pid) == started
