"""What a modality of series learns from the training rows: channels, gaps, the distance of times, mean and deviation.

Shapes: T steps, K channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from regraft.errors import DataError, Problem
from regraft.modalities.measurements import Measured
from regraft.modalities.series_steps import solid
from regraft.types import FloatArray

_DISTANCES = 100_000


@dataclass(frozen=True)
class State:
    """What was learnt.

    Args:
        channels: Numbers a step of every row.
        mask: Whether the network is told what was measured.
        step: Usual distance of times; nothing where rows have none.
        mean: Of each channel over all training rows.
        deviation: Of each channel; 1 where it does not change.
    """

    channels: int
    mask: bool = False
    step: float | None = None
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {**asdict(self), "mean": list(self.mean), "deviation": list(self.deviation)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild from `to_json`.

        Raises:
            KeyError: A field is missing.
            ValueError: A field has an impossible value.
        """
        channels = int(values["channels"])
        means, deviations = (tuple(map(float, values[name])) for name in ("mean", "deviation"))
        if (
            channels < 1
            or len({len(means), len(deviations)} - {0} | {channels}) != 1
            or any(value <= 0 for value in deviations)
        ):
            raise ValueError("mean and deviation have one number a channel, and deviations are above 0")
        step = values["step"]
        return cls(channels, bool(values["mask"]), None if step is None else float(step), means, deviations)

    @classmethod
    def of_rows(cls, rows: Iterable[Measured], mask: bool | None) -> Self:
        """Learn from rows.

        Args:
            rows: Of the training.
            mask: Whether the network is told what was measured; where there are gaps or times if not given.

        Raises:
            DataError: There is no row, or rows have different numbers of channels.
        """
        counts: Counter[int] = Counter()
        first: dict[int, int] = {}
        sums = _Sums()
        distances: list[FloatArray] = []
        held, gaps = 0, False
        for number, row in enumerate(rows, start=1):
            counts[row.channels] += 1
            first.setdefault(row.channels, number)
            if len(counts) == 1:
                sums.add(row.values_TK)
            gaps = gaps or row.times_T is not None or bool(np.isnan(row.values_TK).any())
            if row.times_T is not None and held < _DISTANCES:
                distances.append(np.diff(row.times_T))
                held += len(distances[-1])
        if len(counts) != 1:
            raise DataError(_differing(counts, first))
        mean_K, deviation_K = sums.moments()
        usual = float(np.median(np.concatenate(distances))) if held else None
        return cls(
            channels=next(iter(counts)),
            mask=gaps if mask is None else mask,
            step=usual,
            mean=tuple(map(float, mean_K)),
            deviation=tuple(map(float, deviation_K)),
        )


class _Sums:
    """Mean and deviation of what comes in parts (Chan, Golub and LeVeque 1983, equations 1.5a and 1.5b)."""

    def __init__(self) -> None:
        self.count_K = self.mean_K = self.squares_K = np.zeros(1)

    def add(self, values_TK: FloatArray) -> None:
        """Take a part in; NaN is left out."""
        there_TK = ~np.isnan(values_TK)
        count_K = there_TK.sum(axis=0).astype(float)
        filled_TK = np.where(there_TK, values_TK, 0.0)
        mean_K = filled_TK.sum(axis=0) / np.maximum(count_K, 1)
        squares_K = np.where(there_TK, (filled_TK - mean_K) ** 2, 0.0).sum(axis=0)
        total_K = np.maximum(self.count_K + count_K, 1)
        apart_K = mean_K - self.mean_K
        self.squares_K = self.squares_K + squares_K + apart_K**2 * self.count_K * count_K / total_K
        self.mean_K = self.mean_K + apart_K * count_K / total_K
        self.count_K = self.count_K + count_K

    def moments(self) -> tuple[FloatArray, FloatArray]:
        """Return mean and deviation (K,)."""
        deviation_K = solid(np.sqrt(self.squares_K / np.maximum(self.count_K, 1)), self.mean_K)
        return self.mean_K, deviation_K


def _differing(counts: Counter[int], first: Mapping[int, int]) -> Problem:
    if not counts:
        return Problem(what="there is no series to learn from", fix="give training rows with series")
    said = ", ".join(f"{channels} in {n:,} (first in row {first[channels]:,})" for channels, n in counts.most_common(5))
    what = "the series of the training rows have different numbers of channels"
    expected = "the same number of channels in every row"
    fix = "give every row all channels (null where one was not measured), or take the odd rows out"
    return Problem(what=what, got=said, expected=expected, fix=fix)
