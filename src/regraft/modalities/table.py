"""Rows of a table: numbers, categories, yes or no, dates, and gaps. numpy, no torch, no pandas.

A raw value is a mapping from column to value. A row is one position, because every row has every column: `values` holds the
numbers of all columns, one after another, `ids` one number a category. The position covers all columns; `layout` says which
numbers are of which column.

Shapes: B rows, V numbers, C categorical columns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np

from regraft.errors import ArtifactError, DataError, Problem
from regraft.modalities import table_values
from regraft.modalities.modality import Modality
from regraft.modalities.table_columns import OTHER, Learnt
from regraft.modalities.table_values import READ, Kind, misfit
from regraft.options import JSON, Field, build, options, to_json
from regraft.types import Array, Encoded, FloatArray

if TYPE_CHECKING:
    from regraft.data.gathering import Survey

VALUES, IDS = "values", "ids"
STATE_FILE = "table_config.json"
_LOOKED_AT = 100
_LEVELS = ("none", "few", "some", "many", "all")
_FIRST_DAY_S = 1_704_067_200  # 2024-01-01
_DAYS = 360


@options
class TableOptions:
    """How rows of a table become numbers for a network."""

    scale: Literal["quantile", "standard", "none"] = "quantile"
    """How numbers are scaled: to the normal quantile of their rank among the training rows, by their mean and deviation (no
    further than 100 deviations), or not at all."""

    kinds: dict[str, Kind] = Field(default_factory=dict)
    """Column -> number, category, boolean or date, where looking at the values says something else."""

    min_count: Annotated[int, Field(ge=1)] = 2
    """Training rows that a category needs to be known by itself; rarer ones count as one, together with those never seen."""

    knots: Annotated[int, Field(ge=10, le=10_000)] = 1000
    """Most quantiles that are kept of a column of numbers; one for 30 training rows, at least 10."""


@dataclass(frozen=True)
class Layout:
    """Which numbers of a row are of which column.

    Args:
        widths: Numbers of each column that becomes numbers.
        sizes: Categories of each column that becomes one.
    """

    widths: tuple[int, ...]
    sizes: tuple[int, ...]


class Table(Modality):
    """Turn rows of a table into numbers.

    Args:
        options: How.
        learnt: What the training rows said of each column, categories last.
        notes: Sentences about columns that were dropped.

    Example:
        >>> raws = [{"age": "31", "colour": "red"}, {"age": "47", "colour": "blue"}, {"age": "", "colour": "red"}]
        >>> table = Table.learn(TableOptions(scale="standard", min_count=1), lambda: [raws])
        >>> row = table.encode([{"age": 39, "colour": "green"}])[0]
        >>> row.inputs["values"].tolist(), row.inputs["ids"].tolist(), table.columns
        ([[0.0, 0.0]], [[1]], ('age', 'colour'))
    """

    Options: ClassVar[type[Any]] = TableOptions
    name: ClassVar[str] = "table"
    libraries: tuple[str, ...] = ("numpy",)

    def __init__(self, options: TableOptions, learnt: Sequence[Learnt], notes: Sequence[str] = ()) -> None:
        self.options = options
        self.learnt = tuple(learnt)
        self._notes = tuple(notes)
        self._kinds: dict[str, Kind] = {column.name: column.kind for column in self.learnt}
        self._measured = [column for column in self.learnt if column.width]
        self._named = [column for column in self.learnt if column.size]
        sizes = [column.size for column in self._named]
        self._starts = [0, *np.cumsum(sizes).tolist()]
        self._places = [{value: place for place, value in enumerate(column.values, start=OTHER + 1)} for column in self._named]

    @classmethod
    def learn(cls, options: TableOptions, raws: Callable[[], Iterable[Sequence[Any]]]) -> Self:
        """Return the modality that the training rows ask for.

        Args:
            options: How.
            raws: Gives the raw rows again from the start, in chunks.

        Raises:
            DataError: There is no row, a row cannot be read, or no column says anything.
        """
        from regraft.modalities.table_learning import Sizes, learn

        learnt, notes = learn(options.kinds, raws, Sizes(options.min_count, options.knots))
        return cls(options, learnt, notes)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a row must have."""
        return tuple(self._kinds)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about columns that were dropped."""
        return self._notes

    @property
    def layout(self) -> Layout:
        """Which numbers of a row are of which column."""
        return Layout(tuple(column.width for column in self._measured), tuple(column.size for column in self._named))

    @property
    def padding(self) -> Mapping[str, float]:
        """Input name -> the value that fills positions after the end of a row; there are none."""
        return {name: 0 for name, there in ((VALUES, self._measured), (IDS, self._named)) if there}

    @property
    def longest(self) -> int:
        """Most positions that a row can have."""
        return 1

    def problem(self, raw: object) -> str:
        """Return why a raw value cannot be encoded, naming the columns, or an empty string."""
        return misfit(raw, self._kinds)

    def encode(self, raws: Sequence[Any], *, spans: bool = True) -> list[Encoded]:
        """Encode rows that have no `problem`, in order; the one position of a row covers all columns.

        Raises:
            DataError: One of them has a problem.
        """
        if not raws:
            return []
        try:
            arrays = self._arrays(raws)
        except (ValueError, KeyError, TypeError):
            reasons = ((number, self.problem(raw)) for number, raw in enumerate(raws, start=1))
            number, why = next((number, why) for number, why in reasons if why)
            fix = "mend the row, or take it out"
            raise DataError(Problem(what=why, where=f"row {number} of those given", fix=fix)) from None
        span = np.array([[0, len(self._kinds) if spans else 0]], dtype=np.int32)
        return [
            Encoded(inputs={name: array[row : row + 1] for name, array in arrays.items()}, spans_T2=span)
            for row in range(len(raws))
        ]

    def ready(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Return rows as the network takes them: `values` (B, V), float32, and `ids` (B, C), int64."""
        return {name: array[:, 0] for name, array in inputs.items()}

    def _arrays(self, raws: Sequence[Any]) -> dict[str, Array]:
        arrays: dict[str, Array] = {}
        if self._measured:
            scale = self.options.scale
            parts = [column.numbers(_cells(raws, column), scale) for column in self._measured]
            arrays[VALUES] = np.concatenate(parts, axis=1)
        if self._named:
            ids = [
                [start + (0 if cell is None else known.get(str(cell), OTHER)) for cell in _cells(raws, column)]
                for column, start, known in zip(self._named, self._starts[:-1], self._places, strict=True)
            ]
            arrays[IDS] = np.array(ids, dtype=np.int32).T.copy()
        return arrays

    def as_json(self, raw: Any) -> JSON:
        """Return a row as a JSON object of the columns that are read."""
        return {name: table_values.as_json(raw[name]) for name in self._kinds}

    def spec(self) -> dict[str, JSON]:
        """Return the state that is not in files, as JSON."""
        return {"options": to_json(self.options), "columns": list(self._kinds)}

    def save(self, folder: Path) -> None:
        """Write `table_config.json`: what was learnt from the training rows."""
        state = {"columns": [column.to_json() for column in self.learnt], "notes": list(self._notes)}
        (folder / STATE_FILE).write_text(json.dumps(state, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, spec: JSON) -> Self:
        """Rebuild from the `save`d file and `spec`; encodes the same bytes as before.

        Raises:
            ArtifactError: The file is missing or holds something else.
        """
        path = folder / STATE_FILE
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            learnt = [Learnt.from_json(column) for column in state["columns"]]
            if [column.name for column in learnt] != spec["columns"]:
                raise ValueError("other columns than the manifest names")
            return cls(build(TableOptions, spec["options"], owner=cls.name), learnt, state["notes"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            what = "what was learnt about the table cannot be read"
            fix = "restore the file from its source, or fit again"
            raise ArtifactError(Problem(what=what, where=str(path), got=str(error)[:200], fix=fix)) from error

    @classmethod
    def survey(cls, options: Mapping[str, JSON]) -> Survey:
        """Return what finds the columns to read together."""
        from regraft.modalities.table_survey import TableSurvey

        return TableSurvey(build(TableOptions, options, owner=cls.name).kinds)

    @classmethod
    def recognises(cls, values: Sequence[Any]) -> bool:
        """Return whether values look like rows of a table: mappings of single values."""
        seen = values[:_LOOKED_AT]
        return bool(seen) and all(
            isinstance(value, Mapping) and bool(value) and all(map(table_values.is_scalar, value.values())) for value in seen
        )

    @classmethod
    def example(cls, signal_NS: FloatArray, seed: int) -> list[Any]:
        """Render numbers as rows: each as a number (some missing), as one of five words, as a day and as yes or no."""
        rng = np.random.default_rng(seed)
        signal_NS = np.clip(np.asarray(signal_NS, dtype=float), 0.0, 1.0)
        rows: list[Any] = []
        for number, signal_S in enumerate(signal_NS):
            row: dict[str, Any] = {}
            for place, value in enumerate(signal_S.tolist()):
                day = np.datetime64(_FIRST_DAY_S + 86_400 * int(value * _DAYS), "s")
                noisy = round(100.0 * value + rng.normal(), 3)
                row[f"number_{place}"] = None if number % 7 == 3 and place else noisy
                row[f"word_{place}"] = _LEVELS[min(int(value * len(_LEVELS)), len(_LEVELS) - 1)]
                row[f"day_{place}"] = str(day)[:10]
                row[f"high_{place}"] = "yes" if value > 0.5 else "no"
            rows.append(row)
        return rows

    def made_up(self, signal_NS: FloatArray, seed: int) -> list[Any]:
        """Render numbers as rows with the columns of the training rows, within what these hold."""
        signal_NS = np.clip(np.asarray(signal_NS, dtype=float), 0.0, 1.0)
        rng = np.random.default_rng(seed)
        return [
            {column.name: _made_up(column, float(rng.choice(signal_S))) for column in self.learnt} for signal_S in signal_NS
        ]


def _cells(raws: Sequence[Any], column: Learnt) -> list[table_values.Cell]:
    read, name = READ[column.kind], column.name
    return [read(raw[name]) for raw in raws]


def _made_up(column: Learnt, share: float) -> JSON:
    if column.kind == "category":
        return column.values[min(int(share * len(column.values)), len(column.values) - 1)] if column.values else "other"
    if column.kind == "boolean":
        return share > 0.5
    if column.kind == "number" and column.knots:
        return round(float(np.interp(share, np.linspace(0.0, 1.0, len(column.knots)), column.knots)), 6)
    moment = column.mean + (2.0 * share - 1.0) * column.deviation
    return str(np.datetime64(int(moment), "s")) if column.kind == "date" else moment


__all__ = ["IDS", "STATE_FILE", "VALUES", "Layout", "Table", "TableOptions"]
