"""What a modality is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from regraft.options import JSON
from regraft.types import Array, Encoded, FloatArray


class Modality(ABC):
    """Turn one kind of raw value into arrays.

    Runs without torch and transformers. Its state is JSON (`spec`) and files in the base's own formats (`save`).
    """

    Options: ClassVar[type[Any]]
    name: ClassVar[str]

    @abstractmethod
    def problem(self, raw: object) -> str:
        """Return why a raw value cannot be encoded, or an empty string."""

    @abstractmethod
    def encode(self, raws: Sequence[Any]) -> list[Encoded]:
        """Encode values that have no `problem`, in order."""

    @abstractmethod
    def collate(self, encoded: Sequence[Encoded]) -> tuple[dict[str, Array], Array]:
        """Pad rows to the longest of them.

        Returns:
            Input name -> (B, T, ...), and the mask (B, T), True where a position is real.
        """

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
