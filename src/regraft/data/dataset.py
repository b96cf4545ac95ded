"""Rows that know their splits, roles and fingerprint; on disk, never all in memory. `load_dataset` makes them."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from regraft.data.checks import count_conflicts, count_shared
from regraft.data.clean import Sight, store_rows
from regraft.data.gathering import Gather, Surveyed, gather
from regraft.data.options import DataOptions
from regraft.data.roles import InputColumn, Recogniser, find_input, require_column
from regraft.data.rows import RowSource, open_rows, open_splits
from regraft.data.several_targets import gathered_targets, several_strata, with_every_class
from regraft.data.split import Split
from regraft.data.splits import number_strata, split_rows
from regraft.data.store import RowStore
from regraft.data.targets import Cells, Kind, as_kind, as_number, kinds_of
from regraft.errors import DataError, Problem, did_you_mean
from regraft.options import JSON
from regraft.types import Array, Ledger

_HELD_OUT = ("valid", "test")
_MANY_NUMBERS = 20
_FEW_ROWS = 10
"""Sets of labels in fewer rows than this are drawn together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Rows that know their splits, the roles of their columns and their fingerprint.

    The rows stand in a private temporary folder, which is removed when the dataset is closed, collected or the program ends.

    Args:
        splits: "train", "valid", "test" -> rows; a split without rows is left out.
        input_column: The column that is read.
        input_modality: Registered name of the modality that reads it.
        target_column: The column that is predicted; of several targets what they are called as one.
        target_kind: What the targets are: "str", "int", "bool", "float" or "other"; of several targets column -> what it is.
        notes: Sentences that say how files were read, what was inferred and how rows were split.
        ledger: What was lost, and what is odd but bearable.
        folder: The private folder.
        settled: Options of the modality that are known since all rows were looked at.
        sight: Looks at values of the input column, files that they name included; None where they are taken as they are.
    """

    splits: Mapping[str, Split]
    input_column: str
    input_modality: str
    target_column: str
    target_kind: Kind
    notes: tuple[str, ...]
    ledger: Ledger
    folder: Path
    settled: Mapping[str, JSON] = field(default_factory=dict)
    sight: Sight | None = None
    _remove: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_remove", weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the files; the rows cannot be trusted to be readable after this."""
        self._remove()

    @property
    def names(self) -> list[str]:
        """Names of the splits that have rows."""
        return list(self.splits)

    def split(self, name: str) -> Split:
        """Return one split.

        Raises:
            DataError: There is no such split, or it has no rows.
        """
        if name not in self.splits:
            own = f"give rows of their own (--{name}), or a data.{name}_share above 0"
            fix = own if name in _HELD_OUT else did_you_mean(name, self.names)
            raise DataError(Problem(what=f"there are no {name} rows", got=", ".join(self.splits), fix=fix))
        return self.splits[name]

    def targets(self, split: str) -> list[Any]:
        """Return the target of every row of a split."""
        return self.split(split).targets()

    @property
    def roles(self) -> dict[str, str]:
        """Column -> modality of the input, "target" or "other", for the columns of the first split."""
        roles = dict.fromkeys(next(iter(self.splits.values())).columns, "other")
        return roles | {self.input_column: self.input_modality, self.target_column: "target"}

    @cached_property
    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """Split -> {"rows", "rows_digest", "order_digest"} over input and target column."""
        return {name: split.fingerprint() for name, split in self.splits.items()}


@dataclass(frozen=True)
class Seen:
    """An input column whose values are looked at, files that they name included.

    Args:
        column: Its name, or a function that recognises it.
        sight: How.
    """

    column: str | Recogniser
    sight: Sight


def load_dataset(
    data: object,
    *,
    target: str | Sequence[str],
    inputs: Mapping[str, str | Recogniser | Seen | Gather],
    valid: object = None,
    test: object = None,
    seed: int = 0,
    options: DataOptions | None = None,
) -> Dataset:
    """Read rows, find out what their columns are for, and split them.

    Splits that are given (by name, or as files of a folder) are respected; what is not given is drawn from the training rows,
    the same share of every class, identical inputs together.

    Args:
        data: A file, a folder, the name of a sample, or an object (see `open_rows` and `open_splits`).
        target: Column to predict; or several, whose values are then one mapping a row, in which some may be missing.
        inputs: Modality -> the column it reads, or a function that recognises a column by its values; with how its values are
            looked at where they name files. Or several columns to read together.
        valid: Validation rows, if they stand apart.
        test: Test rows, if they stand apart.
        seed: Draws the split.
        options: How to read and split.

    Returns:
        The dataset; its `ledger` holds what was lost, its `notes` what was inferred.

    Raises:
        DataError: Something cannot be read, a column is missing or ambiguous, too many rows are lost, or a split stays empty.
        MachineError: The disk that holds temporary files is full.

    Example:
        >>> rows = [{"text": f"mail number {i}", "label": i % 2} for i in range(100)]
        >>> with load_dataset(rows, target="label", inputs={"text": "text"}) as dataset:
        ...     {name: len(split) for name, split in dataset.splits.items()}
        {'train': 70, 'valid': 10, 'test': 20}
    """
    options = options or DataOptions()
    tables = _open_all(data, {"valid": valid, "test": test}, options)
    parts: tuple[str, ...] = ()
    if not isinstance(target, str):
        parts = tuple(target)
        tables, target = gathered_targets(tables, parts, inputs)
    found, tables, surveyed = _find_roles(tables, target, inputs)
    asked = inputs[found.modality]
    sight = surveyed.sight if surveyed else asked.sight if isinstance(asked, Seen) else None
    folder = Path(tempfile.mkdtemp(prefix="regraft-rows-"))  # readable by this user only
    try:
        ledger = Ledger()
        columns = (found.name, target)
        stores = {n: store_rows(table, columns, (folder, n), options, ledger, sight, parts) for n, table in tables.items()}
        train = stores["train"]
        kind, kind_notes = kinds_of(train.targets, tables["train"].typed)
        where = f"{tables['train'].name}, column '{target}'"
        missing = [name for name in _HELD_OUT if name not in stores]
        drawn, note = _draw(train, kind, missing, options, seed, where)
        splits = {name: Split(name, stores[name], np.arange(len(stores[name])), kind) for name in stores if name != "train"}
        splits |= {name: Split(name, train, rows, kind) for name, rows in drawn.items()}
        splits = {name: splits[name] for name in ("train", *_HELD_OUT) if name in splits and len(splits[name])}
        count_conflicts(train, [as_kind(value, kind) for value in train.targets], ledger)
        count_shared({name: splits[name] for name in stores if name in splits}, ledger)
        about = surveyed.notes if surveyed else (found.note,)
        notes = (*_notes(tables), *about, *kind_notes, *filter(None, [note]))
        return Dataset(
            splits=splits,
            input_column=found.name,
            input_modality=found.modality,
            target_column=target,
            target_kind=kind,
            notes=notes,
            ledger=ledger,
            folder=folder,
            settled=surveyed.settled if surveyed else {},
            sight=sight,
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _notes(tables: Mapping[str, RowSource]) -> list[str]:
    return [note for table in tables.values() for note in table.notes]


def _open_all(data: object, given: Mapping[str, object], options: DataOptions) -> dict[str, RowSource]:
    """Open everything, reporting the problems of all of it together."""
    tables: dict[str, RowSource] = {}
    problems: list[Problem] = []
    try:
        tables = open_splits(data, options)
    except DataError as error:
        problems += error.problems
    else:
        if "" in tables:
            tables = {"train": tables[""]}
        elif "train" not in tables:
            got = ", ".join(tables)
            problems.append(Problem(what="there are no training rows", got=got, fix="add a file whose name begins with train"))
    for name, source in given.items():
        if source is None:
            continue
        if name in tables:
            got = f"'{tables[name].name}' and --{name}"
            problems.append(
                Problem(what=f"the {name} rows are given twice", got=got, fix=f"leave out --{name}, or name one file")
            )
        try:
            tables[name] = open_rows(source, options, name)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return tables


def _find_roles(
    tables: dict[str, RowSource], target: str, inputs: Mapping[str, str | Recogniser | Seen | Gather]
) -> tuple[InputColumn, dict[str, RowSource], Surveyed | None]:
    """Find target and input in all tables, reporting every problem together; columns that are read together become one."""
    problems = [problem for table in tables.values() for problem in require_column(table, target, "--target")]
    together = next(((modality, wanted) for modality, wanted in inputs.items() if isinstance(wanted, Gather)), None)
    if together is not None:
        if problems:
            raise DataError(problems)
        gathered = gather(tables, target, *together)
        joined = {name: table.gathered(gathered.name, gathered.surveyed.columns) for name, table in tables.items()}
        return InputColumn(gathered.name, together[0], ""), joined, gathered.surveyed
    single = {name: wanted.column if isinstance(wanted, Seen) else wanted for name, wanted in inputs.items()}
    columns = {name: column for name, column in single.items() if not isinstance(column, Gather)}
    return _find_column(tables, target, columns, problems), tables, None


def _find_column(
    tables: Mapping[str, RowSource], target: str, inputs: Mapping[str, str | Recogniser], problems: list[Problem]
) -> InputColumn:
    first, *others = tables.values()
    if target not in first.columns and not any(isinstance(column, str) for column in inputs.values()):
        raise DataError(problems)  # without the target the input cannot be told from it
    found = None
    try:
        found = find_input(first, target, inputs)
    except DataError as error:
        problems += error.problems
    for table in others:
        if found is None:
            continue
        problems += require_column(table, found.name, f"--{found.modality}")
        if found.name in table.columns and not table.schema.field(found.name).type.equals(first.schema.field(found.name).type):
            problems.append(
                Problem(
                    what=f"the column '{found.name}' has another type than in the training rows",
                    where=table.name,
                    got=str(table.schema.field(found.name).type),
                    expected=str(first.schema.field(found.name).type),
                    fix="write it in the same type in all files",
                )
            )
    if problems or found is None:
        raise DataError(problems)
    return found


def _draw(
    train: RowStore, kind: Kind, missing: list[str], options: DataOptions, seed: int, where: str
) -> tuple[dict[str, Array], str]:
    """Draw the splits that are not given from the training rows; `where` is what messages call these."""
    every = {"valid": options.valid_share, "test": options.test_share}
    shares = {name: every[name] for name in missing if every[name] > 0}
    if sum(shares.values()) >= 1.0:
        got = " + ".join(f"{share}" for share in shares.values())
        fix = "lower data.valid_share or data.test_share"
        raise DataError(Problem(what="no share is left for training", where="data", got=got, expected="less than 1", fix=fix))
    if not shares:
        return {"train": np.arange(len(train))}, ""
    values = [as_kind(value, kind) for value in train.targets]
    keys_N, several = train.keys_N, isinstance(values[0], Cells) and not options.grouped
    if options.grouped:
        numbered = {value: number for number, value in enumerate(dict.fromkeys(values))}
        keys_N = np.array([numbered[value] for value in values])[train.codes_N]
        strata_N, how = np.zeros(len(keys_N), dtype=np.int64), "rows of one target together"
    elif several:
        strata_N = several_strata(values, train.codes_N, _strata_of)
        how = "the same share of every frequent mix of targets in each"
    else:
        strata_N, how, _ = _strata(values, train.codes_N)
    drawn = split_rows(keys_N, strata_N, shares, seed)
    if several:
        drawn = with_every_class(drawn, values, train.codes_N, train.keys_N, _strata_of)
    empty = [name for name, rows in drawn.items() if not len(rows)]
    if empty:
        raise DataError(
            Problem(
                what=f"too few rows to draw a split: no {' and no '.join(empty)} rows",
                where=where,
                got=f"{len(train):,} rows, {len(np.unique(train.keys_N)):,} different inputs, {len(train.targets):,} targets",
                expected="a few different inputs for every target",
                fix=f"give more rows, or rows of their own (--{empty[0]})" if empty[0] in shares else "give more rows",
            )
        )
    counts = ", ".join(f"{name} {len(rows):,}" for name, rows in drawn.items())
    same = "" if options.grouped else ", identical inputs together"
    return drawn, f"split with seed {seed}, {how}{same}: {counts} rows"


def _strata_of(values: Sequence[Any], codes_N: Array) -> tuple[Array, bool]:
    strata_N, _, classes = _strata(values, codes_N)
    return strata_N, classes


def _strata(values: Sequence[Any], codes_N: Array) -> tuple[Array, str, bool]:
    """Return the stratum of each row, how it was found, and whether each different value has its own."""
    if len(values) > max(_MANY_NUMBERS, 0.1 * len(codes_N)):
        numbers = [float(value) if isinstance(value, bool) else as_number(value) for value in values]
        found = np.array([np.nan if number is None else number for number in numbers])[codes_N]
        sound_N = np.isfinite(found)
        if 2 * np.count_nonzero(sound_N) > len(codes_N):  # what is none of the numbers is for the task to name
            strata_N = np.full(len(codes_N), -1)
            strata_N[sound_N] = number_strata(found[sound_N])
            return strata_N, "the same range of the target in each", False
    numbered: dict[Any, int] = {}
    class_of_code = np.array([numbered.setdefault(value, len(numbered)) for value in values])
    classes_N: Array = class_of_code[codes_N]
    if all(isinstance(value, tuple) for value in values):
        rows_of_class = np.bincount(classes_N)
        classes_N = np.where(rows_of_class[classes_N] < _FEW_ROWS, -1, classes_N)
        return classes_N, "the same share of every frequent set of labels in each", False
    return classes_N, "the same share of every target in each", True
