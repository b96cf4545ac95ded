"""What a modality is.

Shapes: B rows, T positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from regraft.options import JSON
from regraft.types import Array, Encoded, FloatArray

if TYPE_CHECKING:
    from regraft.data.gathering import Gather, Survey
    from regraft.modalities.encoded import SplitRows
    from regraft.modalities.encoded_store import EncodedStore


class Modality(ABC):
    """Turn one kind of raw value into arrays.

    Runs without torch and transformers. Its state is JSON (`spec`) and files in the base's own formats (`save`).
    """

    Options: ClassVar[type[Any]]
    name: ClassVar[str]
    libraries: tuple[str, ...] = ()
    """Distributions whose version may change what comes out."""
    chunk_rows: int = 1024
    """Raw values that are held at once while many are read."""
    unit: ClassVar[str] = "positions"
    """What positions are called where those that were cut off are counted."""
    over: ClassVar[str] = ""
    """Registered name of the modality that it is made of: a base that reads that one reads this one too."""
    looks: bool = False
    """Whether `located`, `opened` and `unreadable` do anything."""

    @property
    @abstractmethod
    def padding(self) -> Mapping[str, float]:
        """Input name -> the value that fills positions after the end of a row."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that a raw value is a mapping of; empty where it stands in one column, whatever that is called."""
        return ()

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the parts of a row that may be missing, each by itself; empty where a row is one value."""
        return ()

    def without(self, name: str) -> Modality:
        """Return the same preprocessing for which one part is missing in every row.

        Args:
            name: One of `part_names`.
        """
        raise KeyError(name)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for people about what was learnt from the training rows."""
        return ()

    @property
    def longest(self) -> int | None:
        """Most positions that a row can have; None where there is no limit."""
        return None

    @abstractmethod
    def problem(self, raw: object) -> str:
        """Return why a raw value cannot be encoded, or an empty string."""

    @abstractmethod
    def encode(self, raws: Sequence[Any], *, spans: bool = True) -> list[Encoded]:
        """Encode values that have no `problem`, in order.

        Args:
            raws: The values.
            spans: Whether the raw interval of each position is wanted; without, all of them are (0, 0) and encoding is faster.
        """

    def attempt(self, raws: Sequence[Any]) -> list[Encoded | str]:
        """Encode what can be encoded, in order, without spans; in the place of the rest stands its `problem`.

        A modality whose `problem` is as much work as encoding does both at once here.

        Args:
            raws: Any values.
        """
        said = [self.problem(raw) for raw in raws]
        encoded = iter(self.encode([raw for raw, why in zip(raws, said, strict=True) if not why], spans=False))
        return [why or next(encoded) for why in said]

    def rows(
        self, chunks: Callable[[], Iterable[Sequence[Any]]], store: Callable[[Modality], EncodedStore | None]
    ) -> SplitRows:
        """Return the rows of a split, encoded once.

        Args:
            chunks: Gives the raw values, in chunks, whenever it is called; none has a `problem`.
            store: Where the rows of a modality are kept between runs.
        """
        from regraft.modalities.encoded import EncodedRows

        return EncodedRows(self, chunks, store=store(self))

    def collate(self, encoded: Sequence[Encoded]) -> tuple[dict[str, Array], Array]:
        """Make a batch of rows, as the network takes it.

        Args:
            encoded: At least one row.

        Returns:
            Input name -> array, its first axis the row, and the mask (B, T), True where a position is real.
        """
        inputs, mask_BT = self.pad(encoded)
        return self.ready(inputs), mask_BT

    def ready(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Return padded inputs as the network takes them; runs wherever a batch is made: rows are kept small until then.

        Args:
            inputs: Input name -> (B, T, ...), as `padded` gives them.
        """
        return inputs

    def pad(self, encoded: Sequence[Encoded]) -> tuple[dict[str, Array], Array]:
        """Pad rows on the right to the longest of them.

        Args:
            encoded: At least one row.

        Returns:
            Input name -> (B, T, ...), and the mask (B, T), True where a position is real.
        """
        lengths_B = np.asarray([row.length for row in encoded], dtype=np.int64)
        starts_B = np.cumsum(lengths_B) - lengths_B
        flat = {name: np.concatenate([row.inputs[name] for row in encoded]) for name in encoded[0].inputs}
        return padded(flat, starts_B, lengths_B, self.padding)

    @property
    def draws(self) -> int:
        """How many numbers it takes to vary a row in training; 0 where rows are always seen as they are."""
        return 0

    def varied(self, inputs: dict[str, Array], draws_BK: FloatArray) -> dict[str, Array]:
        """Return padded inputs of training rows, each varied as its numbers say; comes before `ready`.

        Args:
            inputs: Input name -> (B, T, ...), as `padded` gives them.
            draws_BK: `draws` numbers in [0, 1) for each row.
        """
        return inputs

    @classmethod
    def located(cls, raw: Any, folder: Path | None) -> Any:
        """Return a raw value of the user's own data with a path in it made absolute.

        Args:
            raw: As the data hold it; may be a path where the modality reads files.
            folder: Folder of the data file that it stands in; None for data in memory.

        Raises:
            ValueError: The path leads nowhere, or out of the folder; says so.
        """
        return raw

    @classmethod
    def opened(cls, raw: Any) -> Any:
        """Return what `located` gave with its file read. Never called with what came over HTTP.

        Raises:
            ValueError: The file cannot be read; says why.
        """
        return raw

    def brought(self, raws: Sequence[Any], folder: Path | None) -> tuple[list[Any], dict[int, str]]:
        """Return values of the user's own data with the files that they name read, and why for those that cannot be.

        Args:
            raws: As the data hold them.
            folder: Folder of the data file; None for data in memory.
        """
        if not self.looks:
            return list(raws), {}
        found, wrong = list(raws), {}
        for i, raw in enumerate(raws):
            if raw is not None:
                try:
                    found[i] = self.opened(self.located(raw, folder))
                except ValueError as error:
                    wrong[i] = str(error)
        return found, wrong

    @classmethod
    def survey(cls, options: Mapping[str, JSON]) -> Survey | None:
        """Return what finds the columns to read together, where a raw value is a row of several columns; None elsewhere.

        Args:
            options: Plain values for `Options`.
        """
        return None

    @classmethod
    def inner(cls, raws: Sequence[Any], columns: Sequence[str]) -> list[Any]:
        """Return raw values of the modality that this one is made of (`over`), from which a base learns how to read them.

        Args:
            raws: Raw values of this modality.
            columns: The columns that are read together.
        """
        return list(raws)

    @classmethod
    def around(cls, made: Modality, columns: Sequence[str]) -> Modality:
        """Return this modality, from the one that it is made of (`over`) as a base reads it.

        Args:
            made: That modality.
            columns: The columns that are read together.
        """
        return made

    @classmethod
    def gathering(cls, options: Mapping[str, JSON], columns: str) -> Gather | None:
        """Return which columns are read together, and what looks at them; None where a raw value stands in one column.

        Args:
            options: Plain values for `Options`.
            columns: Names with commas between them, as the user gave them; empty where none was given.
        """
        from regraft.data.gathering import Gather

        survey = cls.survey(options)
        return None if survey is None else Gather(columns, survey)

    def running_text(self, raw: Any) -> str:
        """Return the running text of a raw value that has no `problem`; as it stands here, that there is none."""
        return ""

    @classmethod
    def unreadable(cls, raw: Any) -> str:
        """Return why a raw value can never be read, or an empty string; asked of every row before anything else is done."""
        return ""

    def as_json(self, raw: Any) -> JSON:
        """Return a raw value as JSON that this modality reads as the same value."""
        return raw

    def shortened(self, raw: Any, limit_bytes: int) -> JSON:
        """Return a raw value as JSON, made smaller (and so another one) where it takes much more room than this.

        Args:
            raw: The value.
            limit_bytes: Room it may take, roughly.
        """
        return self.as_json(raw)

    @abstractmethod
    def spec(self) -> dict[str, JSON]:
        """Return the state that is not in files, as JSON."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the files of the state, in the formats of the base's own processor, into an existing folder."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, spec: JSON) -> Self:
        """Rebuild from `save`d files and `spec`; encodes the same bytes as before."""

    @classmethod
    @abstractmethod
    def recognises(cls, values: Sequence[Any]) -> bool:
        """Return whether a column with these values (None left out) looks like this modality; used to infer roles."""

    @classmethod
    @abstractmethod
    def example(cls, signal_NS: FloatArray, seed: int) -> list[Any]:
        """Render numbers as raw values from which they can be learnt back, for conformance tests.

        Args:
            signal_NS: N rows of S numbers in [0, 1].
            seed: For whatever else a raw value needs (noise, length).
        """

    def made_up(self, signal_NS: FloatArray, seed: int) -> list[Any]:
        """Render numbers as `example` does, as raw values that this very modality takes, whatever it has learnt."""
        return type(self).example(signal_NS, seed)


def padded(
    flat: Mapping[str, Array], starts_B: Array, lengths_B: Array, padding: Mapping[str, float]
) -> tuple[dict[str, Array], Array]:
    """Cut rows out of arrays that lie end to end, padded on the right to the longest row, without a Python step a row.

    Args:
        flat: Input name -> all positions of all rows (P, ...).
        starts_B: First position of each row.
        lengths_B: Positions of each row.
        padding: Input name -> value after the end of a row.

    Returns:
        Input name -> (B, T, ...), and the mask (B, T); whole numbers as int64, but bytes and everything else in their own type.

    Example:
        >>> inputs, mask_BT = padded({"ids": np.arange(5)}, np.array([0, 2]), np.array([2, 3]), {"ids": -1})
        >>> inputs["ids"].tolist()
        [[0, 1, -1], [2, 3, 4]]
    """
    width = max(1, int(lengths_B.max(initial=1)))
    steps_1T = np.arange(width, dtype=np.int64)[None, :]
    mask_BT = steps_1T < lengths_B[:, None]
    index_BT = np.where(mask_BT, starts_B[:, None] + steps_1T, 0)
    inputs: dict[str, Array] = {}
    for name, values in flat.items():
        dtype = np.dtype(np.int64) if is_count(values.dtype) else values.dtype
        if len(values):
            cut = np.asarray(values[index_BT]).astype(dtype, copy=False)
            cut[~mask_BT] = padding[name]
        else:
            cut = np.full((*mask_BT.shape, *values.shape[1:]), padding[name], dtype=dtype)
        inputs[name] = cut
    return inputs, mask_BT


def is_count(dtype: np.dtype[Any]) -> bool:
    """Return whether numbers of a type are counted with (ids, lengths) rather than measured: whole, and wider than a sample."""
    return np.issubdtype(dtype, np.integer) and dtype.itemsize >= np.dtype(np.int32).itemsize
