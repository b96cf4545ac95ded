"""Folders of files whose label is the name of the folder they stand in: `pictures/cat/1.png`, also below train/ and test/.

Files that stand in no folder of a label, and a single file, are rows without one: they can be answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from regraft.data.file_kinds import KINDS
from regraft.data.folders import split_of
from regraft.data.reader import Chunk
from regraft.errors import DataError, Problem

LABEL = "label"
_SHOWN = 5


class ClassFolder:
    """Rows of one split: the path of a file and the name of its folder, if that is a label.

    Args:
        root: Folder whose folders are the classes.
        name: What messages call it.
        column: Name of the column of paths.
        files: Paths, class after class.
        ignored: How many files are of no known kind.
        labelled: Whether the files stand in folders of their labels.
    """

    typed = False

    def __init__(
        self, root: Path, name: str, column: str, files: list[Path], ignored: int = 0, *, labelled: bool = True
    ) -> None:
        self.root, self.name, self.labelled = root, name, labelled
        self._files = files
        self.schema = pa.schema([(column, pa.string()), *([(LABEL, pa.string())] if labelled else [])])
        classes = sorted({file.parent.name for file in files})
        shown = ", ".join(classes[:_SHOWN]) + (f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else "")
        told = f"the label is the name of the folder: {shown}" if labelled else "without labels: none stands in a folder of one"
        self.notes = [f"{len(files):,} files, {told}"]
        self.notes += [f"{ignored:,} files of other kinds are left out"] if ignored else []

    @property
    def row_count(self) -> int:
        """Number of files."""
        return len(self._files)

    def chunks(self, chunk_rows: int) -> Iterator[Chunk]:
        """Yield every file in order."""
        for start in range(0, len(self._files), chunk_rows):
            files = self._files[start : start + chunk_rows]
            paths = [file.relative_to(self.root).as_posix() for file in files]
            labels = [pa.array([file.parent.name for file in files], pa.string())] if self.labelled else []
            columns = [pa.array(paths, pa.string()), *labels]
            rows = pa.RecordBatch.from_arrays(columns, schema=self.schema)
            yield Chunk(rows=rows, first_row=start + 1, source=self.name, folder=self.root)


def class_folders(folder: Path) -> dict[str, ClassFolder]:
    """Return split -> its files where a folder is made so, "" for the one of a folder without splits; nothing where it is not.

    Raises:
        DataError: Some of the folders are named for a split and some are not.
    """
    inner = _folders(folder)
    splits = {split_of(child.name): child for child in inner if split_of(child.name) and _folders(child)}
    found = {split: made for split, root in splits.items() if (made := _one(root, f"{folder.name}/{root.name}"))}
    if not found:
        made = _one(folder, folder.name) or unlabelled(folder)
        return {"": made} if made else {}
    if len(splits) < len(inner):
        got = ", ".join(child.name for child in inner[:10])
        what, fix = "some folders are named for a split and some are not", "name all of them train, valid or test, or none"
        raise DataError(Problem(what=what, where=str(folder), got=got, fix=fix))
    return found


def _one(root: Path, name: str) -> ClassFolder | None:
    files = [file for child in _folders(root) for file in sorted(child.iterdir()) if file.is_file() and file.name[0] != "."]
    for column, suffixes in KINDS.items():
        known = [file for file in files if file.suffix.lower() in suffixes]
        if known:
            return ClassFolder(root, name, column, known, len(files) - len(known))
    return None


def unlabelled(place: Path) -> ClassFolder | None:
    """Return the files of a folder, or a file, as rows without a label; nothing where they are of no kind that is read so."""
    files = [place] if place.is_file() else [file for file in sorted(place.iterdir()) if file.is_file() and file.name[0] != "."]
    root = place.parent if place.is_file() else place
    for column, suffixes in KINDS.items():
        known = [file for file in files if file.suffix.lower() in suffixes]
        if known:
            return ClassFolder(root, place.name, column, known, len(files) - len(known), labelled=False)
    return None


def _folders(folder: Path) -> list[Path]:
    return [child for child in sorted(folder.iterdir()) if child.is_dir() and child.name[0] != "."]
