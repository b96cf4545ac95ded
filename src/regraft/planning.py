"""What a fit knows before its first step: its rows, read and split, what is predicted from them, and the rows as arrays."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from regraft.data.dataset import Dataset, Seen, load_dataset
from regraft.data.roles import Recogniser
from regraft.data.targets import as_number
from regraft.defaults import settled
from regraft.errors import DataError, Problem, did_you_mean
from regraft.evaluation.fairness import positive_problems
from regraft.evaluation.metadata import column_problems
from regraft.modalities import MODALITIES
from regraft.modalities.digests import modality_digest
from regraft.modalities.encoded import SplitRows
from regraft.modalities.encoded_store import EncodedStore
from regraft.modalities.fused_rows import FusedRows
from regraft.previous import check_previous
from regraft.tasks import TASKS
from regraft.tasks.multi_target import addressed
from regraft.training.stages import Stages
from regraft.training.threads import available_cores, crowding, default_threads
from regraft.types import Array
from regraft.verbs import FitOptions

if TYPE_CHECKING:
    from regraft.data.clean import Sight
    from regraft.modalities.modality import Modality
    from regraft.models.base import Base
    from regraft.tasks.task import Part, Task

SPLITS = ("train", "valid", "test")
_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that is known before the first step.

    Args:
        wanted: What was asked for.
        data: What the rows were read from, as it was named.
        dataset: The rows and their splits.
        base: The model to start from.
        modality: Raw values to arrays.
        preprocessing: Digest of the modality: same digest, same arrays.
        task: What is predicted; has learnt the training targets.
        rows: Split -> its encoded rows.
        targets: Split -> its targets.
    """

    wanted: FitOptions
    data: str
    dataset: Dataset
    base: Base
    modality: Modality
    preprocessing: str
    task: Task
    rows: Mapping[str, SplitRows]
    targets: Mapping[str, Array]


def joined_splits(data: Any, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return data and options in which objects given as `valid` or `test` have become splits of the data.

    Options are plain values that travel in the artifact; a DataFrame is not one.
    """
    objects = {name: options[name] for name in SPLITS[1:] if not isinstance(options.get(name), str | os.PathLike | None)}
    if not objects:
        return data, dict(options)
    return {SPLITS[0]: data, **objects}, {name: value for name, value in options.items() if name not in objects}


def read(data: Any, wanted: FitOptions, stages: Stages) -> Dataset:
    """Read the rows, find the roles of the columns, split."""
    modality = wanted.modality.name
    kind = MODALITIES.get(modality)
    together = kind.gathering(wanted.modality.options, wanted.columns.get(modality, ""))
    column = wanted.columns.get(modality, kind.recognises)
    with stages("read"):
        dataset = load_dataset(
            data,
            target=wanted.target if isinstance(wanted.target, str) else list(wanted.target),
            inputs={modality: together or _single(column, kind)},
            valid=wanted.valid,
            test=wanted.test,
            seed=wanted.seed,
            options=dataclasses.replace(wanted.data, grouped=wanted.data.grouped or TASKS.get(wanted.task.name).paired),
        )
    stages.notes(dataset.notes)
    if crowded := crowding(wanted.machine.threads or default_threads(), available_cores()):
        stages.note(crowded, "warning")
    for name in ("train", "test"):
        dataset.split(name)  # neither fitting nor judging can do without
    if wanted.judge.group is not None:
        values_of(dataset, "test", wanted.judge.group, "judge.group")
    return dataset


def values_of(dataset: Dataset, split: str, column: str, asked: str) -> list[Any]:
    """Return the values of any column of a split, also of one that is read together with others.

    Args:
        dataset: The rows.
        split: Which.
        column: Its name.
        asked: The option that names it, for the message.

    Raises:
        DataError: There is no such column.
    """
    rows = dataset.split(split)
    if column in rows.columns:
        return rows.values(column)
    together = rows.values(dataset.input_column)
    known = [*rows.columns, *(together[0] if together and isinstance(together[0], dict) else ())]
    if column not in known:
        fix = did_you_mean(column, known)
        raise DataError(Problem(what=f"there is no column '{column}' ({asked})", where=f"the {split} rows", fix=fix))
    return [row[column] for row in together]


def _single(column: str | Recogniser, kind: type[Modality]) -> str | Recogniser | Seen:
    return Seen(column, cast("Sight", kind)) if kind.looks else column  # its methods are those of the class


def plan(data: Any, dataset: Dataset, base: Base, wanted: FitOptions, stages: Stages) -> Plan:
    """Learn the task's targets, open the preprocessing, encode every split once."""
    cls, options = wanted.task.resolve(TASKS)
    task, ledger = cls(options), dataset.ledger
    name = str(data) if isinstance(data, str | Path) else "DATA"
    try:
        task.learn(dataset.targets("train"), ledger)
    except DataError as error:
        # The task knows values only, or which of several columns; the user looks for a file and a column.
        place = "" if task.several else f"column '{wanted.target}'"
        problems = [dataclasses.replace(problem, where=f"{name}, {place or problem.where}") for problem in error.problems]
        raise DataError(problems) from None
    check_targets(task, dataset)
    problems = column_problems(wanted.judge, dataset.split("test").plain_columns, f"{name}, the test rows")
    if problems := problems + positive_problems(wanted.judge, task):
        raise DataError(problems)
    with stages("tokenise", sum(len(dataset.split(split)) for split in dataset.names)):
        kind, told = MODALITIES.get(wanted.modality.name), {**wanted.modality.options, **dataset.settled}
        modality = base.prepared(kind, told, lambda: raws(dataset, "train"))
        task.joins(modality.part_names)
        check_previous(wanted.judge.previous, task, modality.columns or (dataset.input_column,))
        preprocessing, cache = functools.cache(modality_digest), wanted.machine.cache

        def store(read_by: Modality) -> EncodedStore:
            return EncodedStore(cache.place, cache.disk_bytes, preprocessing(read_by), stages.note, about=base.name)

        rows = {split: modality.rows(functools.partial(raws, dataset, split), store) for split in SPLITS}
    if task.paired:
        _check_parts(dataset, modality, rows)
    stages.notes(modality.notes)
    for split, encoded in rows.items():
        if encoded.dropped:
            where = f"{split}: {encoded.truncated_rows:,} of {len(encoded):,} rows"
            ledger.add(f"truncated {modality.unit}", encoded.dropped, where)
    wanted = settled(wanted, base, len(rows["train"]), task, stages.note)
    targets = {split: task.targets(dataset.targets(split) if split in dataset.names else []) for split in SPLITS}
    return Plan(
        wanted=wanted,
        data=name,
        dataset=dataset,
        base=base,
        modality=modality,
        preprocessing=preprocessing(modality),
        task=task,
        rows=rows,
        targets=targets,
    )


def raws(dataset: Dataset, split: str) -> Iterator[Sequence[Any]]:
    """Yield the raw values of a split in chunks, files that they name read; nothing where there is no such split."""
    if split in dataset.names:
        sight, rows = dataset.sight, MODALITIES.get(dataset.input_modality).chunk_rows
        for chunk in dataset.split(split).chunks(dataset.input_column, sight.chunk_rows if sight else rows):
            yield [sight.opened(raw) for raw in chunk] if sight else chunk


def check_targets(task: Task, dataset: Dataset) -> None:
    """Refuse validation and test rows with a target that the training rows do not know, and classes of too few rows.

    Raises:
        DataError: One problem for each different cause, with the places of the first rows.
    """
    problems = _unknown_targets(task, dataset)
    for part in task.parts:
        split = {name: _having(part, dataset.targets(name)) for name in dataset.names}
        problems += [addressed(problem, part.name) if part.name else problem for problem in _rare_targets(part, dataset, split)]
        if not split.get("test"):
            what = f"no test row has the target '{part.name}', so that it could not be judged"
            fix = f"give test rows that have it (--test), or leave out --target {part.name}"
            problems.append(Problem(what=what, where=f"column '{part.name}'", fix=fix))
    if problems:
        raise DataError(problems)


def _check_parts(dataset: Dataset, modality: Modality, rows: Mapping[str, SplitRows]) -> None:
    """Refuse rows that lack a part, where parts are held against each other.

    Raises:
        DataError: One problem for each part that rows lack.
    """
    problems = []
    for part, name in enumerate(modality.part_names):
        lacking = [
            dataset.split(split).place(int(row))
            for split, held in rows.items()
            if isinstance(held, FusedRows)
            for row in (held.places_PN[part] < 0).nonzero()[0]
        ]
        if lacking:
            what, fix = f"rows lack the part '{name}'", "leave these rows out: a pair needs both of its parts"
            problems.append(Problem(what=what, where="; ".join(lacking[:3]), got=f"{len(lacking):,} such rows", fix=fix))
    if problems:
        raise DataError(problems)


def _having(part: Part, values: Sequence[Any]) -> dict[int, Any]:
    """Return the value of one target in the rows that have it, by the number of the row."""
    if not part.name:
        return dict(enumerate(values))
    return {row: value[part.name] for row, value in enumerate(values) if value[part.name] is not None}


def _rare_targets(part: Part, dataset: Dataset, split: Mapping[str, Mapping[int, Any]]) -> list[Problem]:
    task = part.task
    fewest = task.fewest_rows
    if fewest < 2:
        return []
    counts = Counter(value for rows in split.values() for value in rows.values())
    rare = {value: n for value, n in counts.items() if n < fewest and not task.target_problem(value)}
    if not rare:
        return []
    places: dict[Any, str] = {}
    for name, rows in split.items():
        for row, value in rows.items():
            if value in rare:
                places.setdefault(value, dataset.split(name).place(row))
    column = part.name or dataset.target_column
    several = f"{len(rare):,} classes have" if len(rare) > 1 else "a class has"
    shown = ", ".join(f"{value!r} in {n} row{'s' if n > 1 else ''}" for value, n in list(rare.items())[:_SHOWN])
    return [
        Problem(
            what=f"{several} fewer than {fewest} rows: too few to learn from some and be judged on others",
            where=", ".join(f"{places[value]}, column '{column}'" for value in list(rare)[:3]),
            got=shown + (f" and {len(rare) - _SHOWN:,} more" if len(rare) > _SHOWN else ""),
            expected=f"at least {fewest} rows of every class",
            fix="add rows of it, join it with another class, take the rows out, or allow it with --set task.min_rows=1"
            + ("; to estimate the number itself: --task regression" if _are_amounts(rare) else ""),
        )
    ]


def _are_amounts(values: Iterable[Any]) -> bool:
    """Return whether all values are numbers, one of them at least with a fraction."""
    numbers = [as_number(value) for value in values]
    return None not in numbers and any(number != int(number or 0) for number in numbers if number is not None)


def _unknown_targets(task: Task, dataset: Dataset) -> list[Problem]:
    found: dict[str, list[str]] = {}
    for name in dataset.names:
        split = dataset.split(name)
        for row, value in enumerate(split.targets()):
            problem = task.target_problem(value)
            if problem:
                found.setdefault(problem, []).append(split.place(row))
    fix = "mend the label, add training rows that have it, or leave the row out"
    return [
        Problem(what=what, where="; ".join(places[:3]), got=f"{len(places)} such rows", fix=fix)
        for what, places in list(found.items())[:_SHOWN]
    ]
