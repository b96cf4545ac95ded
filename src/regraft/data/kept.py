"""Files that are kept between runs because they can be made again: whole or not at all, shared by processes, pruned by use.

They lie in `FOLDER/KIND/KEY/NAME`: the kind says what they hold ("features", "tokens"), the key is a digest of everything that
changes their content, so that a stale file is never found. `key.json` beside them says for people what the key stands for.

- A file is written under a hidden name that its writer holds locked, made durable, and renamed. Who reads sees all of it.
- What a killed writer leaves behind is no longer locked: `prune` recognises and removes it.
- A file never changes once it has its name. Removing one that another process reads is safe: an open file outlives its name.
- The time of a file is when it was last used (`touch`); `prune` removes the least recently used first, and touches nothing but
  names that were made here.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from regraft.data.atomic import sync_folder
from regraft.options import JSON

if sys.platform != "win32":
    import fcntl

KINDS = ("features", "tokens")
ABOUT = "key.json"
MB = 10**6
_KEY = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[0-9]{20}-[0-9a-f]{8,64}\.[a-z]+")
_PART = re.compile(r"\..+\.part")
_TRIES = 20
_ABANDONED_S = 86_400.0
_RESERVE_BYTES = 1000 * MB
_RESERVE_SHARE = 0.05


def cache_folder() -> Path:
    """Return the folder that bases, features and tokens are kept in (`$REGRAFT_CACHE`); it need not exist."""
    named = os.environ.get("REGRAFT_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "regraft"


def file_name(suffix: str, mark: str = "") -> str:
    """Return a new name: names sort by when they were made.

    Args:
        suffix: With its dot.
        mark: Hexadecimal digits to carry; random ones if empty.
    """
    return f"{time.time_ns():020d}-{mark or secrets.token_hex(4)}{suffix}"


@dataclass(frozen=True)
class Kept:
    """One file.

    Args:
        path: Where it is.
        kind: What it holds ("features").
        size_bytes: Its size.
        used: When it was last used, seconds since 1970.
    """

    path: Path
    kind: str
    size_bytes: int
    used: float


class NewFile:
    """A file that is being written: nobody sees it before `publish`.

    Args:
        folder: Of the key; made if it is not there.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file, self._part = _locked(folder)

    def write(self, content: bytes | memoryview) -> None:
        """Append bytes, all of them.

        Raises:
            OSError: The disk is full, or refuses.
        """
        rest = memoryview(content).cast("B")
        while len(rest):  # the operating system may take less than it is given
            rest = rest[self.file.write(rest) :]

    def publish(self, name: str) -> Path:
        """Make the file durable, give it its name and return where it is; `file` stays open for reading.

        Raises:
            OSError: The disk is full, or refuses; nothing is left behind.
        """
        path = self.folder / name
        try:
            os.fsync(self.file.fileno())
            self._part.replace(path)
        except OSError:
            self.discard()
            raise
        _unlock(self.file)
        sync_folder(self.folder)
        return path

    def discard(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.file.close()
        with contextlib.suppress(OSError):  # it held nothing else
            if all(entry.name == ABOUT for entry in _entries(self.folder)):
                (self.folder / ABOUT).unlink(missing_ok=True)
                self.folder.rmdir()


def write_about(folder: Path, content: bytes) -> None:
    """Write what a key stands for beside its files, if it does not stand there; files are found without it."""
    with contextlib.suppress(OSError):
        if (folder / ABOUT).exists():
            return
        new = NewFile(folder)
        try:
            new.write(content)
            new.publish(ABOUT)
        except OSError:
            new.discard()
        new.file.close()


def touch(path: Path) -> None:
    """Note that a file was used now; it may be gone, or not be ours to note."""
    with contextlib.suppress(OSError):
        os.utime(path)


def key_folders(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield kind and path of every key below a cache folder; links are not followed."""
    for kind in KINDS:
        for entry in _entries(folder / kind):
            if _KEY.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                yield kind, Path(entry.path)


def kept_files(folder: Path) -> list[Kept]:
    """Return all files below a cache folder that were made here, those that are being written included."""
    found: list[Kept] = []
    for kind, place in key_folders(folder):
        for entry in _entries(place):
            with contextlib.suppress(OSError):  # taken away meanwhile
                facts = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(facts.st_mode) and (_NAME.fullmatch(entry.name) or _PART.fullmatch(entry.name)):
                    found.append(Kept(Path(entry.path), kind, facts.st_size, facts.st_mtime))
    return found


def total_bytes(folder: Path) -> int:
    """Return the bytes that are kept below a cache folder."""
    return sum(kept.size_bytes for kept in kept_files(folder))


def prune(
    folder: Path, max_bytes: int | None = None, older_than_s: float | None = None, spare: Collection[Path] = ()
) -> list[Kept]:
    """Remove files, least recently used first, and what killed writers have left; safe beside processes that read and write.

    Args:
        folder: A cache folder; bases in it are not touched.
        max_bytes: What may stay at most; any size if not given.
        older_than_s: Files not used for so long are removed whatever the size.
        spare: Files that stay.

    Returns:
        What was removed.
    """
    found = sorted(kept_files(folder), key=lambda kept: (kept.used, kept.path.name))
    removed = [kept for kept in found if _is_part(kept) and _swept(kept)]
    total = sum(kept.size_bytes for kept in found) - sum(kept.size_bytes for kept in removed)
    oldest = -1.0 if older_than_s is None else time.time() - older_than_s
    for kept in found:
        surplus = max_bytes is not None and total > max_bytes
        if not _is_part(kept) and kept.path not in spare and (surplus or kept.used < oldest) and _removed(kept):
            removed.append(kept)
            total -= kept.size_bytes
    for _, place in key_folders(folder):
        if all(entry.name == ABOUT for entry in _entries(place)):
            with contextlib.suppress(OSError):  # someone begins to write there: then it stays
                (place / ABOUT).unlink(missing_ok=True)
                place.rmdir()
    return removed


def free_disk_bytes(folder: Path) -> int:
    """Return the bytes that may be written where `folder` is or will be; a reserve of the disk is left to others."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        usage = shutil.disk_usage(place)
    except OSError:
        return 0
    return max(0, usage.free - min(_RESERVE_BYTES, int(usage.total * _RESERVE_SHARE)))


def read_about(folder: Path) -> Mapping[str, JSON]:
    """Return what `key.json` of a key says; nothing where it cannot be read."""
    try:
        about = json.loads((folder / ABOUT).read_bytes())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _locked(folder: Path) -> tuple[FileIO, Path]:
    # Between making and locking, a sweep may take the file, and between making the folder and the file a sweep may take the
    # folder: then once more.
    for attempt in range(_TRIES):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            part = folder / f".{secrets.token_hex(8)}.part"
            file = FileIO(part, "x+")
        except FileNotFoundError:
            if attempt == _TRIES - 1:
                raise
            continue
        if _lock(file) is not False and part.exists():
            return file, part
        file.close()
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(folder))


def _lock(file: FileIO) -> bool | None:
    """Return whether the lock of a file could be had, None where there are no locks; it is held until the file is closed."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _unlock(file: FileIO) -> None:
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            fcntl.flock(file.fileno(), fcntl.LOCK_UN)


def _is_part(kept: Kept) -> bool:
    return bool(_PART.fullmatch(kept.path.name))


def _swept(kept: Kept) -> bool:
    """Remove what a dead writer has left: no longer locked, or, where there are no locks, old."""
    try:
        with FileIO(kept.path, "r+") as file:
            free = _lock(file)
            if free is None:
                free = time.time() - kept.used > _ABANDONED_S
            if free:
                kept.path.unlink()
            return free
    except OSError:
        return False


def _removed(kept: Kept) -> bool:
    try:
        kept.path.unlink()
    except OSError:
        return False
    return True


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []
