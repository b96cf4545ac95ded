"""Columns of several kinds in one row, each read by the preprocessing of its own kind. numpy, no torch.

A raw value is a mapping from column to value. A part of it is one column (a text, a picture), or several that are read together
(a table). A part that is missing in a row has no positions there; the network is told so by the mask of that part.

The network takes the arrays of all parts under the names `PART__ARRAY`, and for each part `PART__attention_mask` (B, T), 1
where a position of it is real.

Shapes: B rows, T positions of a part, P parts.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from regraft.data.targets import is_missing
from regraft.errors import ArtifactError, Problem
from regraft.modalities import MODALITIES
from regraft.modalities.modality import Modality
from regraft.options import JSON, Field, options
from regraft.types import Array, Encoded, FloatArray

if TYPE_CHECKING:
    from regraft.data.gathering import Gather, Survey
    from regraft.modalities.encoded_store import EncodedStore
    from regraft.modalities.fused_rows import FusedRows

MASK = "attention_mask"
_UNSAID = re.compile(r"[^A-Za-z0-9]+")
_LOOKED_AT = 100


@options
class FusionOptions:
    """Which parts a row has, and how each is prepared."""

    parts: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Part -> its columns (`columns`), the modality that reads them (`name`), and options of that modality. Flags such as
    --text say the first two."""


@dataclass(frozen=True, slots=True)
class Joined(Encoded):
    """One row of several parts: its arrays are those of the parts, `inputs` is empty, `spans_T2` are theirs end to end.

    Args:
        parts: What was made of each part; None where it is missing.
    """

    parts: tuple[Encoded | None, ...] = ()

    def arrays(self) -> Mapping[str, Array]:
        """Return the arrays of all parts that are there, by the number of the part and their name."""
        there = [(place, part) for place, part in enumerate(self.parts) if part is not None]
        return {f"{place}.{name}": array for place, part in there for name, array in part.arrays().items()}


@dataclass(frozen=True)
class Part:
    """One part of a row.

    Args:
        name: What people call it: its column, or what reads its columns.
        key: Its name in names of arrays and folders.
        columns: The columns it was given.
        modality: Reads them.
    """

    name: str
    key: str
    columns: tuple[str, ...]
    modality: Modality

    @property
    def read(self) -> tuple[str, ...]:
        """The columns that are looked at."""
        return self.modality.columns or self.columns

    def raw(self, row: Mapping[str, Any]) -> Any:
        """Return the raw value of this part, or None where it is missing."""
        return value_of(row, self.read, together=bool(self.modality.columns))

    def array(self, name: str) -> str:
        """Return what the network calls one of its arrays."""
        return f"{self.key}__{name}"


class Fusion(Modality):
    """Turn rows with parts of several kinds into arrays.

    Args:
        parts: At least one.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from regraft.modalities.text import Text, TextOptions
        >>> words = Tokenizer(models.WordLevel({"<unk>": 0, "good": 1}, unk_token="<unk>"))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> text = Text(words, TextOptions())
        >>> fusion = Fusion([Part("title", "title", ("title",), text), Part("body", "body", ("body",), text)])
        >>> arrays, mask_BT = fusion.collate(fusion.encode([{"title": "good", "body": None}]))
        >>> arrays["title__input_ids"].tolist(), arrays["body__attention_mask"].tolist()
        ([[1]], [[0]])
    """

    Options: ClassVar[type[Any]] = FusionOptions
    name: ClassVar[str] = "fusion"

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        modalities = [part.modality for part in parts]
        self.libraries = tuple(dict.fromkeys(name for modality in modalities for name in modality.libraries))
        self.chunk_rows = min(modality.chunk_rows for modality in modalities)
        self.looks = any(modality.looks for modality in modalities)
        self._without: frozenset[str] = frozenset()
        self._blanks: dict[str, dict[str, Array]] = {}

    def without(self, name: str) -> Fusion:
        """Return the same preprocessing for which one part is missing in every row.

        Args:
            name: Of the part.
        """
        made = copy.copy(self)
        made._without = self._without | {name}
        return made

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the parts of a row that may be missing, each by itself."""
        return tuple(part.name for part in self.parts)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a row must have."""
        return tuple(dict.fromkeys(column for part in self.parts for column in part.read))

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what was learnt from the training rows."""
        return tuple(f"{part.name}: {note}" for part in self.parts for note in part.modality.notes)

    @property
    def padding(self) -> Mapping[str, float]:
        """Name of an array of the network -> the value that fills positions after the end of a row."""
        return {name: value for part in self.parts for name, value in _padding(part).items()}

    @property
    def longest(self) -> int | None:
        """Most positions that a row can have; None where a part has no limit."""
        lengths = [part.modality.longest for part in self.parts]
        return None if None in lengths else sum(length for length in lengths if length is not None)

    def raws(self, row: Any) -> list[Any]:
        """Return the raw value of each part of a row, None where it is missing."""
        return [None if part.name in self._without else part.raw(row) for part in self.parts]

    def problem(self, raw: object) -> str:
        """Return why a raw value cannot be encoded, naming the column, or an empty string."""
        if not isinstance(raw, Mapping):
            return f"a row of the columns {_listed(self.columns)} is expected, got {type(raw).__name__}"
        reasons = [_problem(part, part.raw(raw)) for part in self.parts]
        if all(reason is None for reason in reasons):
            return f"there is nothing in the columns {_listed(self.columns)}"
        return "; ".join(reason for reason in reasons if reason)

    def encode(self, raws: Sequence[Any], *, spans: bool = True) -> list[Encoded]:
        """Encode rows that have no `problem`, in order."""
        values = [self.raws(raw) for raw in raws]
        made: list[list[Encoded | None]] = [[None] * len(self.parts) for _ in raws]
        for place, part in enumerate(self.parts):
            there = [row for row, found in enumerate(values) if found[place] is not None]
            encoded = part.modality.encode([values[row][place] for row in there], spans=spans)
            for row, one in zip(there, encoded, strict=True):
                made[row][place] = one
        return [_joined(parts) for parts in made]

    def collate(self, encoded: Sequence[Encoded]) -> tuple[dict[str, Array], Array]:
        """Make a batch of rows, as the network takes it; the mask is that of all parts, one after the other."""
        columns = list(zip(*(_parts_of(row) for row in encoded), strict=True))
        made = []
        for part, found in zip(self.parts, columns, strict=True):
            there = [one for one in found if one is not None]
            given = part.modality.collate(there) if there else None
            made.append(self.spread(part, given, np.array([one is not None for one in found])))
        return self.together(made)

    def pad(self, encoded: Sequence[Encoded]) -> tuple[dict[str, Array], Array]:
        """Return no arrays, because parts have different positions, and the mask of all parts, one after the other."""
        return {}, self.collate(encoded)[1]

    def spread(
        self, part: Part, given: tuple[dict[str, Array], Array] | None, there_B: Array
    ) -> tuple[dict[str, Array], Array]:
        """Return arrays and mask of a part for all rows of a batch: zeros where it is missing.

        Args:
            part: The part.
            given: Arrays and mask for the rows that have it; None if no row has.
            there_B: Which rows have it.
        """
        if given is None:
            inputs: Mapping[str, Array] = self._blank(part)
            mask_NT = np.zeros((0, 1), dtype=bool)
        else:
            inputs, mask_NT = given
        rows = len(there_B)
        if len(mask_NT) == rows:
            return dict(inputs), mask_NT
        made = {name: np.zeros((rows, *array.shape[1:]), dtype=array.dtype) for name, array in inputs.items()}
        mask_BT = np.zeros((rows, mask_NT.shape[1]), dtype=bool)
        if given is not None:
            mask_BT[there_B] = mask_NT
            for name, array in inputs.items():
                made[name][there_B] = array
        return made, mask_BT

    def together(self, made: Sequence[tuple[dict[str, Array], Array]]) -> tuple[dict[str, Array], Array]:
        """Return the arrays of all parts by their names in the network, and the mask of all of them.

        Args:
            made: Arrays and mask of each part, for the same rows.
        """
        inputs: dict[str, Array] = {}
        for part, (arrays, mask_BT) in zip(self.parts, made, strict=True):
            inputs |= {part.array(name): array for name, array in arrays.items()}
            inputs[part.array(MASK)] = mask_BT.astype(np.int64)
        return inputs, np.concatenate([mask_BT for _, mask_BT in made], axis=1)

    def _blank(self, part: Part) -> dict[str, Array]:
        """Return the arrays of a part for no row at all, with one position where it has several."""
        if part.key not in self._blanks:
            example = part.modality.encode(part.modality.made_up(np.full((1, 4), 0.5), 0)[:1], spans=False)
            inputs, mask_1T = part.modality.collate(example)
            length = mask_1T.shape[1]
            self._blanks[part.key] = {
                name: array[:0, :1] if length > 1 and array.ndim > 1 and array.shape[1] == length else array[:0]
                for name, array in inputs.items()
            }
        return self._blanks[part.key]

    def rows(
        self, chunks: Callable[[], Iterable[Sequence[Any]]], store: Callable[[Modality], EncodedStore | None]
    ) -> FusedRows:
        """Return the rows of a split, each part encoded once and kept where a run over that part alone would keep it."""
        from regraft.modalities.fused_rows import FusedRows

        return FusedRows.encoded(self, chunks, store)

    def brought(self, raws: Sequence[Any], folder: Path | None) -> tuple[list[Any], dict[int, str]]:
        """Return rows of the user's own data with the files that they name read, and why for those that cannot be."""
        found, wrong = list(raws), {}
        looking = [part for part in self.parts if part.modality.looks]
        for row, raw in enumerate(raws):
            for part in looking if isinstance(raw, Mapping) else ():
                column, kind = part.columns[0], part.modality
                if is_missing(raw.get(column)):
                    continue
                try:
                    found[row] = {**found[row], column: kind.opened(kind.located(raw[column], folder))}
                except ValueError as error:
                    wrong[row] = f"column '{column}': {error}"
        return found, wrong

    @classmethod
    def survey(cls, options: Mapping[str, JSON]) -> Survey:
        """Return what looks at the columns of all parts."""
        from regraft.modalities.fusion_survey import FusionSurvey, asked

        return FusionSurvey(asked(options.get("parts", {})))

    @classmethod
    def gathering(cls, options: Mapping[str, JSON], columns: str) -> Gather:
        """Return the columns of all parts, and what looks at them."""
        from regraft.data.gathering import Gather
        from regraft.modalities.fusion_survey import FusionSurvey, asked, flags, named

        parts = asked(options.get("parts", {}))
        return Gather(named(parts), FusionSurvey(parts), flags(parts))

    def as_json(self, raw: Any) -> JSON:
        """Return a row as a JSON object of the columns that are read."""
        return self._json(raw, lambda part, value: part.modality.as_json(value))

    def shortened(self, raw: Any, limit_bytes: int) -> JSON:
        """Return a row as JSON, parts that take much more than their share of the room made smaller."""
        share = limit_bytes // len(self.parts)
        return self._json(raw, lambda part, value: part.modality.shortened(value, share))

    def _json(self, raw: Any, said: Callable[[Part, Any], JSON]) -> JSON:
        made: dict[str, JSON] = dict.fromkeys(self.columns)
        for part in self.parts:
            value = part.raw(raw)
            if value is not None:
                made |= said(part, value) if part.modality.columns else {part.columns[0]: said(part, value)}
        return made

    def spec(self) -> dict[str, JSON]:
        """Return the state that is not in files, as JSON."""
        return {
            "columns": list(self.columns),
            "parts": [
                {
                    "name": part.name,
                    "key": part.key,
                    "columns": list(part.columns),
                    "modality": part.modality.name,
                    "spec": part.modality.spec(),
                }
                for part in self.parts
            ],
        }

    def save(self, folder: Path) -> None:
        """Write the files of each part into a folder of its own."""
        for part in self.parts:
            inside = folder / part.key
            inside.mkdir(exist_ok=True)
            part.modality.save(inside)

    @classmethod
    def load(cls, folder: Path, spec: JSON) -> Self:
        """Rebuild from `save`d files and `spec`; encodes the same bytes as before.

        Raises:
            ArtifactError: A part has a name that leads out of the folder.
        """
        parts = []
        for said in spec["parts"]:
            key = str(said["key"])
            if key != plain_key(key):
                what, fix = "a part has a name that no folder of an artifact has", "get the artifact again from its source"
                raise ArtifactError(Problem(what=what, where=str(folder), got=repr(key), fix=fix))
            modality = MODALITIES.get(said["modality"]).load(folder / key, said["spec"])
            parts.append(Part(str(said["name"]), key, tuple(map(str, said["columns"])), modality))
        return cls(parts)

    @classmethod
    def recognises(cls, values: Sequence[Any]) -> bool:
        """Return whether values look like rows of several columns."""
        seen = values[:_LOOKED_AT]
        return bool(seen) and all(isinstance(value, Mapping) and len(value) > 1 for value in seen)

    @classmethod
    def example(cls, signal_NS: FloatArray, seed: int) -> list[Any]:
        """Render numbers as rows of a text in the column `words` and of the columns of a table."""
        words = MODALITIES.get("text").example(signal_NS, seed)
        tables = MODALITIES.get("table").example(signal_NS, seed)
        return [{"words": text, **row} for text, row in zip(words, tables, strict=True)]

    def made_up(self, signal_NS: FloatArray, seed: int) -> list[Any]:
        """Render numbers as rows with the columns that are read, each part saying the same."""
        rows: list[dict[str, Any]] = [{} for _ in signal_NS]
        for part in self.parts:
            for row, value in zip(rows, part.modality.made_up(signal_NS, seed), strict=True):
                row |= value if part.modality.columns else {part.columns[0]: value}
        return list(rows)


def value_of(row: Mapping[str, Any], columns: Sequence[str], *, together: bool) -> Any:
    """Return the raw value of a part of a row, or None where it is missing: of several columns, where all cells are.

    Args:
        row: Column -> value.
        columns: Those of the part.
        together: Whether they are read together, as a mapping.
    """
    if not together:
        value = row.get(columns[0])
        return None if is_missing(value) else value
    cells = {name: row.get(name) for name in columns}
    return None if all(map(is_missing, cells.values())) else cells


def part_keys(names: Sequence[str]) -> list[str]:
    """Return for each part a name of plain letters and digits, all different whatever the file system.

    Example:
        >>> part_keys(["review text", "Review Text", "评论"])
        ['review_text', 'Review_Text_2', 'part']
    """
    keys: list[str] = []
    for name in names:
        key = base = plain_key(name)
        number = 1
        while key.casefold() in {other.casefold() for other in keys}:
            number += 1
            key = f"{base}_{number}"
        keys.append(key)
    return keys


def plain_key(name: str) -> str:
    """Return a name as it may stand in names of arrays and folders."""
    key = _UNSAID.sub("_", name).strip("_") or "part"
    return f"part_{key}" if key[0].isdigit() else key


def _padding(part: Part) -> dict[str, float]:
    return {**{part.array(name): value for name, value in part.modality.padding.items()}, part.array(MASK): 0}


def _problem(part: Part, value: Any) -> str | None:
    """Return what is wrong with a part, an empty string if nothing is, None where it is missing."""
    if value is None:
        return None
    reason = part.modality.problem(value)
    return f"column '{part.columns[0]}': {reason}" if reason and not part.modality.columns else reason


def _joined(parts: Sequence[Encoded | None]) -> Joined:
    there = [part for part in parts if part is not None]
    spans_T2 = np.concatenate([part.spans_T2 for part in there]) if there else np.zeros((0, 2), dtype=np.int32)
    return Joined(inputs={}, spans_T2=spans_T2, dropped=sum(part.dropped for part in there), parts=tuple(parts))


def _parts_of(row: Encoded) -> tuple[Encoded | None, ...]:
    if not isinstance(row, Joined):
        raise TypeError("rows of several parts are encoded by `Fusion.encode`")
    return row.parts


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


__all__ = ["MASK", "Fusion", "FusionOptions", "Joined", "Part", "part_keys", "plain_key", "value_of"]
