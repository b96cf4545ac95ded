"""Which files of a folder are rows, and which of them are train, validation and test."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from regraft.data.formats import format_suffix, is_readable, reader_suffixes
from regraft.errors import DataError, Problem

SPLIT_NAMES = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test", "testing", "eval"),
}
"""Split -> the words at the beginning of a file or folder name that stand for it."""

_DESCRIPTIONS = {"dataset_info.json", "dataset_infos.json", "manifest.json", "package.json"}


def split_of(name: str) -> str:
    """Return the split that a file or folder name stands for, or an empty string.

    Example:
        >>> split_of("validation-00000-of-00001.parquet"), split_of("mails.csv")
        ('valid', '')
    """
    first = re.split(r"[^a-z]", name.lower(), maxsplit=1)[0]
    return next((split for split, words in SPLIT_NAMES.items() if first in words), "")


def is_saved(folder: Path) -> bool:
    """Return whether a folder was written by `save_to_disk` of the `datasets` library."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def ignored_files(folder: Path) -> list[Path]:
    """Return the files of a folder that no reader takes, hidden ones left out."""
    return [child for child in sorted(folder.iterdir()) if child.is_file() and child.name[0] != "." and not _is_data(child)]


def folder_files(folder: Path) -> dict[str, list[Path]]:
    """Return split -> its files in order of their names; under "" all files of a folder without splits.

    A file belongs to a split by the first word of its name, or by the name of the folder it stands in (train/, test/).

    Raises:
        DataError: There are no data files, only some of them are named for a split, or formats are mixed.
    """
    inner = [child for child in sorted(folder.iterdir()) if child.is_dir() and split_of(child.name)]
    files = _files(folder)
    if not inner and not files and (folder / "data").is_dir():
        return folder_files(folder / "data")
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(split_of(file.name), []).append(file)
    for child in inner:
        by_split.setdefault(split_of(child.name), []).extend(_files(child))
    by_split = {split: found for split, found in by_split.items() if found}
    if not by_split:
        raise DataError(_no_files(folder))
    if len(by_split) > 1 and "" in by_split:
        raise DataError(
            Problem(
                what="some files of the folder are named for a split and some are not",
                where=str(folder),
                got=", ".join(file.name for found in by_split.values() for file in found[:3]),
                fix="name all of them train..., valid... or test..., or none",
            )
        )
    for found in by_split.values():
        _require_one_format(folder, found)
    return by_split


def _require_one_format(folder: Path, files: list[Path]) -> None:
    known = reader_suffixes()
    kinds = Counter(known[format_suffix(file)[0]] for file in files)
    if len(kinds) > 1:
        raise DataError(
            Problem(
                what="the files of a folder that are one table must have one format",
                where=str(folder),
                got=", ".join(f"{count} x {kind}" for kind, count in kinds.items()),
                fix="keep one format, or name one file",
            )
        )


def _files(folder: Path) -> list[Path]:
    return [child for child in sorted(folder.iterdir()) if child.is_file() and child.name[0] != "." and _is_data(child)]


def _is_data(path: Path) -> bool:
    return is_readable(path) and path.name not in _DESCRIPTIONS


def _no_files(folder: Path) -> Problem:
    there = ", ".join(sorted(child.name for child in folder.iterdir())[:10]) or "nothing"
    return Problem(
        what="the folder holds no data files",
        where=str(folder),
        got=there,
        expected=f"files that end in {', '.join(reader_suffixes())}",
        fix="name the folder or file that holds the rows",
    )
