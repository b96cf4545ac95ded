"""A file that appears whole or not at all, and what to say when the disk gives up."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from regraft.data.streams import stands
from regraft.errors import DataError, MachineError, Problem

_FULL = {errno.ENOSPC: "no space left", errno.EDQUOT: "disk quota exceeded", errno.EFBIG: "file size limit exceeded"}
_FAILING = {errno.EIO, errno.EROFS}


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a hidden file beside `path` for writing; when the block ends it is made durable and takes the name `path`.

    When the block ends with an error, the hidden file is removed and `path` stays as it was.

    Raises:
        DataError: The folder is not there, is not ours to write, or `path` is a folder.
        MachineError: The disk is full or fails.
    """
    _require_place(path)
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    done = False
    try:
        with machine_errors(path):
            with _opened(hidden, path) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            hidden.replace(path)
            done = True
            sync_folder(path.parent)
    finally:
        if not done and stands(hidden):
            hidden.unlink(missing_ok=True)


@contextmanager
def machine_errors(path: Path, fix: str = "") -> Iterator[None]:
    """Turn the errors of a full or failing disk into a `MachineError` that says what to do.

    Args:
        path: What is being written.
        fix: What to do when the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise MachineError(
                Problem(
                    what=f"the disk is full: {_FULL[error.errno]}",
                    where=str(path),
                    got=f"{error.strerror}; nothing was left half-written",
                    fix=fix or f"free some space where '{path.parent}' is, or write to another disk",
                )
            ) from error
        if error.errno in _FAILING:
            raise MachineError(
                Problem(
                    what="the disk refuses to write",
                    where=str(path),
                    got=f"{error.strerror}; nothing was left half-written",
                    fix="check the disk, or write to another one",
                )
            ) from error
        raise


def _opened(hidden: Path, path: Path) -> BinaryIO:
    try:
        return hidden.open("xb")
    except OSError as error:
        if error.errno in _FULL or error.errno in _FAILING:
            raise
        got, fix = error.strerror or str(error), "choose another name or folder"
        raise DataError(Problem(what="the file cannot be written", where=str(path), got=got, fix=fix)) from error


def _require_place(path: Path) -> None:
    if stands(path) and path.is_dir():
        raise DataError(Problem(what="a folder stands where the file should go", where=str(path), fix="choose another name"))
    if not (stands(path.parent) and path.parent.is_dir()):
        fix = f"make it (mkdir -p '{path.parent}'), or choose another folder"
        raise DataError(Problem(what="the folder to write to does not exist", where=str(path.parent), fix=fix))
    if not os.access(path.parent, os.W_OK):
        fix = "give yourself permission to write there, or choose another folder"
        raise DataError(Problem(what="the folder cannot be written to", where=str(path.parent), fix=fix))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder; the rename stands all the same
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
