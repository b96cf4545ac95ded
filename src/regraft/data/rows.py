"""Open data of any kind as one stream of rows."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import pyarrow as pa

from regraft.data import SAMPLES
from regraft.data.class_folders import class_folders, unlabelled
from regraft.data.columns import gathered_rows, plain_rows
from regraft.data.folders import folder_files, ignored_files, is_saved, split_of
from regraft.data.formats import is_readable, reader_for
from regraft.data.objects import Rows, rows_of_object
from regraft.data.options import DataOptions
from regraft.data.reader import Chunk, Reader
from regraft.data.streams import stands
from regraft.errors import DataError, Problem, did_you_mean, nearest
from regraft.registry import missing_extra


class RowSource:
    """One table, wherever its rows come from; can be read again and again.

    Args:
        name: What messages call it.
        parts: Files or objects whose rows follow each other; all have the same columns.
        size_bytes: Bytes on disk; 0 for what is in memory.
        notes: Sentences about the source as a whole; those of the parts are added.

    Raises:
        DataError: The parts have different columns, or columns of types that do not go together.
    """

    def __init__(self, name: str, parts: Sequence[Rows], size_bytes: int, notes: Sequence[str] = ()) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self.notes = [*notes, *_part_notes(parts)]
        self._parts = parts
        self._plain = self.schema = _joined_schema(parts)
        self._gathered: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.schema.names)

    @property
    def row_count(self) -> int | None:
        """Number of rows, bad ones included; None where only reading would tell."""
        counts = [part.row_count for part in self._parts]
        return None if None in counts else sum(count for count in counts if count is not None)

    @property
    def typed(self) -> bool:
        """Whether the format says what is a number; a CSV file does not."""
        return all(part.typed for part in self._parts)

    def gathered(self, into: str, columns: Sequence[str]) -> Self:
        """Return the same rows with some columns as one, whose values are mappings from column to value.

        Args:
            into: Name of the new column.
            columns: Those that it takes the place of.
        """
        made = copy.copy(self)
        made._gathered = (*self._gathered, (into, tuple(columns)))
        made.schema = made._together(pa.RecordBatch.from_pylist([], schema=self._plain)).schema
        return made

    def _together(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        for into, columns in self._gathered:
            rows = gathered_rows(rows, into, columns)
        return rows

    def is_part(self, path: Path) -> bool:
        """Return whether a file is one of those that the rows come from."""
        files = [part.path for part in self._parts if isinstance(part, Reader)]
        return stands(path) and any(path.samefile(file) for file in files)

    def chunks(self, chunk_rows: int = 1024) -> Iterator[Chunk]:
        """Yield every row in order, at most `chunk_rows` at a time; a bad row stands in its place with nulls.

        Raises:
            DataError: The rest of a file cannot be read at all.
        """
        for part in self._parts:
            folder = part.path.parent if isinstance(part, Reader) else None
            for chunk in part.chunks(chunk_rows):
                rows = plain_rows(chunk.rows, self._plain)
                yield Chunk(
                    rows=self._together(rows),
                    first_row=chunk.first_row,
                    bad=chunk.bad,
                    source=chunk.source,
                    folder=chunk.folder or folder,
                )


def open_rows(source: object, options: DataOptions, split: str = "") -> RowSource:
    """Open a file, a folder, a sample or an object as one table.

    Args:
        source: A path, the name of a shipped sample, a pandas DataFrame, a `datasets.Dataset`, a `pyarrow.Table`, a list of
            dicts, or a folder whose files of one format are one table.
        options: How to read files.
        split: Which split to take where a folder or a `DatasetDict` holds several ("train", "valid", "test").

    Raises:
        DataError: It does not exist, is of no known kind, or cannot be read.

    Example:
        >>> rows = open_rows([{"text": "hello", "label": "ham"}], DataOptions())
        >>> rows.columns, rows.row_count
        (['text', 'label'], 1)
    """
    tables = open_splits(source, options)
    if len(tables) == 1 and (not split or "" in tables):
        return next(iter(tables.values()))
    if split in tables:
        return tables[split]
    raise DataError(
        Problem(
            what=f"there is no '{split}' split" if split else "the data hold several splits",
            where=describe(source),
            got=", ".join(tables),
            fix="name the file or folder of one of them",
        )
    )


def open_splits(source: object, options: DataOptions) -> dict[str, RowSource]:
    """Open data that may hold splits.

    Args:
        source: As for `open_rows`; also a `datasets.DatasetDict` or a mapping from split names to data.
        options: How to read files.

    Returns:
        Split ("train", "valid", "test") -> table; under "" the one table of data without splits.

    Raises:
        DataError: It cannot be opened, or two parts stand for the same split.
    """
    if isinstance(source, dict):
        return _mapped_splits(source, options)
    if not isinstance(source, (str, Path)):
        rows = rows_of_object(source, options)
        if rows is None:
            raise DataError(_unknown_object(source))
        return {"": RowSource(rows.name, [rows], 0)}
    if isinstance(source, str) and source in SAMPLES:
        sample = SAMPLES.get(source)
        if not isinstance(sample, str):
            return _open_folder(sample.folder(), options)
        path = Path(sample)
        note = f"the shipped sample '{source}'"
        note += f" (write ./{source} for what stands here under that name)" if Path(source).exists() else ""
        return {"": RowSource(path.name, [reader_for(path, DataOptions())], path.stat().st_size, [note])}
    if isinstance(source, str) and not source.strip():
        # An unset shell variable; as a path it would be the current folder and all that lies in it.
        raise DataError(
            Problem(what="the name of the data is empty", got=repr(source), fix="name a file, a folder or a sample")
        )
    path = Path(source).expanduser()
    if not stands(path):
        raise DataError(_missing(path))
    if path.is_dir():
        return _open_folder(path, options)
    if alone := None if is_readable(path) else unlabelled(path):
        return {"": RowSource(path.name, [alone], 0)}
    return {"": RowSource(path.name, [reader_for(path, options)], path.stat().st_size)}


def describe(source: object) -> str:
    """Return what messages call data that are not open yet."""
    return str(source) if isinstance(source, (str, Path)) else type(source).__name__


def _open_folder(folder: Path, options: DataOptions) -> dict[str, RowSource]:
    if is_saved(folder):
        return _open_saved(folder, options)
    named = any(is_readable(child) for child in folder.iterdir() if child.is_file())
    if found := {} if named else class_folders(folder):  # a table beside folders of files names them
        return {split: RowSource(part.name, [part], 0) for split, part in found.items()}
    tables = {}
    for split, files in folder_files(folder).items():
        notes = [f"{len(files)} files are one table: {', '.join(file.name for file in files[:5])}"] if len(files) > 1 else []
        ignored = [file.name for file in ignored_files(folder)]
        notes += [f"ignored: {', '.join(ignored)}"] if ignored else []
        name = f"{folder.name}/{split}" if split else folder.name
        parts = [reader_for(file, options) for file in files]
        tables[split] = RowSource(name, parts, sum(file.stat().st_size for file in files), notes)
    return tables


def _open_saved(folder: Path, options: DataOptions) -> dict[str, RowSource]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise missing_extra(error, "a folder written by save_to_disk", "train") from error
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise DataError(
            Problem(
                what="the folder was written by save_to_disk, but it cannot be read",
                where=str(folder),
                got=f"{type(error).__name__}: {error}"[:300],
                fix="write it again",
            )
        ) from error
    return open_splits(loaded, options)


def _mapped_splits(source: dict[object, object], options: DataOptions) -> dict[str, RowSource]:
    found: dict[str, RowSource] = {}
    ignored = []
    for name, data in source.items():
        split = split_of(str(name))
        if not split:
            ignored.append(str(name))
            continue
        if split in found:
            got = ", ".join(map(str, source))
            raise DataError(
                Problem(what=f"two parts stand for the {split} split", where=describe(source), got=got, fix="keep one")
            )
        found[split] = open_rows(data, options)
    if not found:
        got = ", ".join(map(str, source)) or "nothing"
        raise DataError(
            Problem(
                what="none of the parts is a split",
                where=describe(source),
                got=got,
                expected="train, valid, test",
                fix="rename them",
            )
        )
    if ignored:
        next(iter(found.values())).notes.append(f"ignored: {', '.join(ignored)}, which is no split")
    return found


def check_there(*sources: object) -> None:
    """Refuse names of data where nothing stands, without reading anything.

    Args:
        sources: As `fit` takes them; what is no name, and nothing, passes.

    Raises:
        DataError: For each of them what was looked for, and where.
    """
    named = [source for source in sources if isinstance(source, str | os.PathLike) and str(source).strip()]
    paths = [Path(source).expanduser() for source in named if str(source) not in SAMPLES]
    problems = [_missing(path) for path in paths if not stands(path)]
    if problems:
        raise DataError(problems)


def _part_notes(parts: Sequence[Rows]) -> list[str]:
    if len(parts) == 1:
        return [f"{parts[0].name}: {note}" for note in parts[0].notes]
    by_note: dict[str, list[str]] = {}
    for part in parts:
        for note in part.notes:
            by_note.setdefault(note, []).append(part.name)
    return [f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {note}" for note, names in by_note.items()]


def _joined_schema(parts: Sequence[Rows]) -> pa.Schema:
    first = parts[0]
    problems = []
    for part in parts[1:]:
        if set(part.schema.names) != set(first.schema.names):
            odd = sorted(set(part.schema.names) ^ set(first.schema.names))
            problems.append(
                Problem(
                    what="the files of one table have different columns",
                    where=part.name,
                    got=", ".join(part.schema.names),
                    expected=f"the columns of {first.name}: {', '.join(first.schema.names)}",
                    fix=f"see {', '.join(map(repr, odd[:5]))}; give all files the same columns",
                )
            )
    if problems:
        raise DataError(problems)
    schema = first.schema
    for part in parts[1:]:
        try:
            schema = pa.unify_schemas(
                [schema, pa.schema([part.schema.field(name) for name in schema.names])], promote_options="permissive"
            )
        except pa.ArrowTypeError as error:
            got = str(error).split("\n", 1)[0]
            raise DataError(
                Problem(
                    what="a column has different types in the files of one table",
                    where=part.name,
                    got=got,
                    fix="write one type",
                )
            ) from error
    return schema


def _missing(path: Path) -> Problem:
    folder = path.parent if stands(path.parent) and path.parent.is_dir() else None
    visible = (child for child in folder.iterdir() if not child.name.startswith(".")) if folder else ()
    there = sorted(child.name for child in visible if child.is_dir() or is_readable(child))
    near = [str(path.parent / name) if path.parent != Path() else name for name in nearest(path.name, there)]
    near += [name for name in nearest(str(path), SAMPLES.names()) if name not in near]
    if near:
        fix = "did you mean " + " or ".join(f"'{name}'" for name in near) + "?"
    elif folder is None:
        fix = f"check the path: the folder '{path.parent}' does not exist"
    else:
        fix = did_you_mean(path.name, [*there, *SAMPLES.names()])
    samples = ", ".join(f"'{name}'" for name in SAMPLES)
    return Problem(
        what=f"there is no file, folder or sample '{path}'",
        where=str(folder.resolve()) if folder else str(path.parent),
        expected=f"a file, a folder, or a shipped sample ({samples})",
        fix=fix,
    )


def _unknown_object(source: object) -> Problem:
    return Problem(
        what="this kind of object cannot be read as rows",
        got=f"{type(source).__module__}.{type(source).__qualname__}",
        expected="a path, a sample, a pandas DataFrame, a datasets.Dataset, a pyarrow.Table or a list of dicts",
        fix="turn it into one of these",
    )
