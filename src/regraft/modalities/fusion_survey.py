"""Which columns of a row are which part: what was asked for, held against what every row of the data has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from regraft.data.clean import Sight
from regraft.data.gathering import Survey, Surveyed, named_columns
from regraft.data.targets import is_missing
from regraft.errors import DataError, OptionsError, Problem
from regraft.modalities import MODALITIES
from regraft.modalities.fusion import value_of
from regraft.modalities.modality import Modality
from regraft.options import JSON, joined_names

_OWN = ("name", "columns")


@dataclass(frozen=True)
class Asked:
    """What was asked for of one part.

    Args:
        name: What people call it.
        reads: Registered name of the modality that reads it.
        columns: Its columns; empty for all that no other part has.
        options: Plain values for the modality.
    """

    name: str
    reads: str
    columns: tuple[str, ...]
    options: Mapping[str, JSON]

    @property
    def kind(self) -> type[Modality]:
        """The modality that reads it."""
        return MODALITIES.get(self.reads)

    @property
    def together(self) -> bool:
        """Whether it is read as several columns together."""
        return self.kind.survey(self.options) is not None

    def to_json(self) -> dict[str, JSON]:
        """Return the part as it stands in the options of a fusion."""
        return {"name": self.reads, "columns": list(self.columns), **self.options}


def asked(parts: Mapping[str, Mapping[str, JSON]]) -> list[Asked]:
    """Return what was asked for of each part.

    Args:
        parts: The option `parts` of a fusion, complete.

    Raises:
        OptionsError: A part does not say what reads it.
        UnknownNameError: It names a modality that is not registered.
    """
    found = []
    for name, said in parts.items():
        if not said.get("name"):
            fix = "name its column with the flag of what reads it: --text COLUMN, --image COLUMN, --table A,B"
            where = f"modality.parts.{name}"
            raise OptionsError(Problem(what=f"nothing says what reads the part '{name}'", where=where, fix=fix))
        MODALITIES.target(said["name"])
        columns = said.get("columns", ())
        names = named_columns(columns, []) if isinstance(columns, str) else [str(column) for column in columns]
        found.append(Asked(name, said["name"], tuple(names), {key: v for key, v in said.items() if key not in _OWN}))
    return found


def flags(parts: Sequence[Asked]) -> dict[str, str]:
    """Return for each column that is named the flag that names it."""
    return {column: f"--{part.reads}" for part in parts for column in part.columns}


def named(parts: Sequence[Asked]) -> str:
    """Return all columns as one text, or nothing where a part takes those that are left."""
    names = list(dict.fromkeys(column for part in parts for column in part.columns))
    return str(joined_names(names)) if all(part.columns for part in parts) else ""


class FusionSurvey:
    """Look at every row: which parts are there, and what the columns of tables hold.

    Args:
        parts: What was asked for.
    """

    def __init__(self, parts: Sequence[Asked]) -> None:
        self.parts = tuple(parts)
        self._surveys: dict[str, Survey | None] = {part.name: part.kind.survey(part.options) for part in parts}
        self._there = dict.fromkeys(self._surveys, 0)
        self._columns: dict[str, tuple[str, ...]] = {}
        self._rows = 0

    def add(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Look at the values of some rows."""
        taken = {column for part in self.parts for column in part.columns}
        rows = len(next(iter(columns.values()), ()))
        self._rows += rows
        for part in self.parts:
            names = part.columns or tuple(name for name in columns if name not in taken)
            self._columns[part.name] = names
            cells = [columns[name] for name in names]
            self._there[part.name] += sum(not all(map(is_missing, row)) for row in zip(*cells, strict=True))
            survey = self._surveys[part.name]
            if survey is not None:
                survey.add({name: columns[name] for name in names})

    def finish(self, named: bool) -> Surveyed:
        """Return which columns are read, and as what.

        Args:
            named: Whether the user named the columns; here each part knows for itself.

        Raises:
            DataError: A part is missing in every row, or columns of a table cannot be read; one problem for each.
        """
        problems: list[Problem] = []
        found: dict[str, Surveyed] = {}
        for part in self.parts:
            if not self._there[part.name]:
                problems.append(self._absent(part))
                continue
            try:
                found[part.name] = self._finished(part)
            except DataError as error:
                problems += error.problems
        if problems:
            raise DataError(problems)
        columns = tuple(dict.fromkeys(name for surveyed in found.values() for name in surveyed.columns))
        settled: dict[str, JSON] = {}
        for part in self.parts:
            surveyed = found[part.name]
            settled[part.name] = {**part.to_json(), "columns": list(surveyed.columns), **surveyed.settled}
        notes = [note for part in self.parts for note in self._notes(part, found[part.name])]
        return Surveyed(columns, tuple(notes), FusionSight(self.parts, found), {"parts": settled})

    def _finished(self, part: Asked) -> Surveyed:
        survey = self._surveys[part.name]
        if survey is None:
            return Surveyed(self._columns[part.name], (), cast(Sight, part.kind))  # its methods are those of the class
        return survey.finish(bool(part.columns))

    def _absent(self, part: Asked) -> Problem:
        names = ", ".join(f"'{name}'" for name in self._columns.get(part.name, part.columns)) or "no column"
        return Problem(
            what=f"the part '{part.name}' is missing in every row",
            where=names,
            got=f"nothing in {self._rows:,} rows",
            expected="rows that have it",
            fix=f"leave it out of --{part.reads}, or give training rows that have it",
        )

    def _notes(self, part: Asked, surveyed: Surveyed) -> list[str]:
        lacking = self._rows - self._there[part.name]
        gap = f", missing in {lacking:,} of {self._rows:,} rows" if lacking else ""
        if surveyed.notes:
            return [f"{part.name}: {note}{gap if place == 0 else ''}" for place, note in enumerate(surveyed.notes)]
        names = ", ".join(f"'{name}'" for name in surveyed.columns)
        return [f"{names} is read as {part.reads}{gap}"]


class FusionSight:
    """Look at the rows of several parts, each as its own kind is looked at.

    Args:
        parts: What was asked for.
        found: Part -> its columns, and how they are looked at.
    """

    def __init__(self, parts: Sequence[Asked], found: Mapping[str, Surveyed]) -> None:
        self._looks: list[tuple[bool, tuple[str, ...], Sight]] = [
            (part.together, found[part.name].columns, found[part.name].sight) for part in parts
        ]
        self.chunk_rows = min(sight.chunk_rows for _, _, sight in self._looks)

    def located(self, raw: Any, folder: Path | None) -> Any:
        """Return a row with paths made absolute.

        Raises:
            ValueError: One leads nowhere; says in which column.
        """
        return self._each(raw, lambda sight, value: sight.located(value, folder))

    def opened(self, raw: Any) -> Any:
        """Return a row with the files that it names read.

        Raises:
            ValueError: One cannot be read; says in which column.
        """
        return self._each(raw, lambda sight, value: sight.opened(value))

    def unreadable(self, raw: Any) -> str:
        """Return which columns of a row hold something wrong, or an empty string."""
        reasons, there = [], False
        for together, columns, sight in self._looks:
            value = value_of(raw, columns, together=together)
            if value is None:
                continue
            there = True
            reason = sight.unreadable(value)
            if reason:
                reasons.append(reason if together else f"column '{columns[0]}': {reason}")
        if not there:
            names = ", ".join(f"'{name}'" for _, columns, _ in self._looks for name in columns)
            return f"there is nothing in the columns {names}"
        return "; ".join(reasons)

    def _each(self, raw: Any, done: Any) -> Any:
        made = raw
        for together, columns, sight in self._looks:
            if together or is_missing(raw.get(columns[0])):
                continue
            try:
                made = {**made, columns[0]: done(sight, raw[columns[0]])}
            except ValueError as error:
                raise ValueError(f"column '{columns[0]}': {error}") from error
        return made


__all__ = ["Asked", "FusionSight", "FusionSurvey", "asked", "flags", "named"]
