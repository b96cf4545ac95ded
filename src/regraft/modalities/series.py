"""Series of numbers, one or several channels, even or not, with gaps or without. numpy, no torch.

A position is a step: (T, channels), and for each channel once more whether it was measured, where the training rows have gaps.
For a base that takes series of one length (a window), a row is one position (1, window, channels), filled up on the left with
zeros that count as not measured; `ready` takes that axis away.

Shapes: T steps, K channels of the series, C channels of the network (K, or 2 K with what was measured).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np

from regraft.errors import ArtifactError, DataError, Problem
from regraft.modalities import measurements
from regraft.modalities.measurements import Measured
from regraft.modalities.modality import Modality
from regraft.modalities.series_learning import State
from regraft.modalities.series_steps import Steps, by_last, by_line, by_zero, even, gridded, moments
from regraft.options import JSON, Field, build, options, to_json
from regraft.types import Array, Encoded, FloatArray

VALUES = "values"
STATE_FILE = "series_config.json"
_FILLS: Mapping[str, Callable[[FloatArray], FloatArray]] = {"linear": by_line, "last": by_last, "zero": by_zero}
_LOOKED_AT = 100
_UNSCALED = "none"
_BYTES_A_NUMBER = 20
_PLATEAU = 4
_NOISE = 0.02


@options
class SeriesOptions:
    """How series become numbers for a network."""

    scaling: Literal["row", "train", "none"] = "row"
    """What is subtracted and divided by, channel by channel: each row's own mean and deviation (its level and size are lost,
    its shape stays), those of all training rows, or nothing."""

    fill: Literal["linear", "last", "zero"] = "linear"
    """What stands where nothing was measured: the line between the neighbours, the last number, or 0 after scaling."""

    max_length: Annotated[int, Field(ge=1, le=1_000_000)] = 2048
    """Longest series in steps; what is longer is cut and counted."""

    truncation_side: Literal["right", "left"] = "right"
    """Which end of a longer series is cut off."""

    step: Annotated[float, Field(gt=0)] | None = None
    """Distance of the even grid on which a series with times is put, in the unit of the times (seconds for dates); the median
    distance in the training rows if not given."""

    mask: bool | None = None
    """Whether the network is told what was measured and what was filled in; if not given, where training rows have gaps."""


class Series(Modality):
    """Turn series into numbers.

    Args:
        options: How.
        state: What was learnt from the training rows.
        window: Steps of every row, for a base that takes no others.

    Example:
        >>> series = Series(SeriesOptions(scaling="none"), State(channels=1, mask=True))
        >>> row = series.encode([[1.0, None, 3.0]])[0]
        >>> row.inputs["values"].tolist(), row.spans_T2.tolist()
        ([[1.0, 1.0], [2.0, 0.0], [3.0, 1.0]], [[0, 1], [1, 2], [2, 3]])
    """

    Options: ClassVar[type[Any]] = SeriesOptions
    name: ClassVar[str] = "series"
    libraries: tuple[str, ...] = ("numpy",)
    unit: ClassVar[str] = "steps"
    looks: bool = True

    def __init__(self, options: SeriesOptions, state: State, *, window: int | None = None) -> None:
        self.options = options
        self.state = state
        self.window = window
        self._limit = options.max_length if window is None else min(window, options.max_length)

    @property
    def channels(self) -> int:
        """Numbers a step that the network is given."""
        return self.state.channels * (2 if self.state.mask else 1)

    @property
    def padding(self) -> Mapping[str, float]:
        """Input name -> the value that fills positions after the end of a row."""
        return {VALUES: 0}

    @property
    def longest(self) -> int:
        """Most positions that a row can have."""
        return self._limit if self.window is None else 1

    def problem(self, raw: object) -> str:
        """Return why a raw value cannot be encoded, or an empty string."""
        try:
            return self._misfit(measurements.read(raw))
        except ValueError as error:
            return str(error)

    def encode(self, raws: Sequence[Any], *, spans: bool = True) -> list[Encoded]:
        """Encode series that have no `problem`, in order; a position covers the steps that it stands for.

        Raises:
            DataError: One of them has a problem.
        """
        return [self._encoded(raw, spans) for raw in raws]

    def ready(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """Return rows (B, T, C), float32; those of a window came as (B, 1, window, C)."""
        return inputs if self.window is None else {VALUES: inputs[VALUES][:, 0]}

    def _misfit(self, found: Measured) -> str:
        wanted = self.state.channels
        if found.channels == wanted:
            return ""
        return f"a series of {_channels(wanted)} is expected, got {_channels(found.channels)}"

    def _encoded(self, raw: Any, spans: bool) -> Encoded:
        try:
            found = measurements.read(raw)
            reason = self._misfit(found)
        except ValueError as error:
            reason = str(error)
        if reason:
            fix = "mend the row, or take it out"
            raise DataError(Problem(what="a series cannot be used", got=reason, fix=fix))
        steps = self._steps(found)
        values_TK = _FILLS[self.options.fill](self._scaled(found, steps.values_TK))
        parts = [values_TK, steps.seen_TK] if self.state.mask else [values_TK]
        values_TC = np.concatenate(parts, axis=1, dtype=np.float32, casting="unsafe")
        if self.window is not None:
            return self._windowed(values_TC, steps, spans)
        spans_T2 = steps.spans_T2 if spans else np.zeros_like(steps.spans_T2)
        return Encoded(inputs={VALUES: values_TC}, spans_T2=spans_T2, dropped=steps.dropped)

    def _steps(self, found: Measured) -> Steps:
        from_left = self.options.truncation_side == "left"
        times_T = found.times_T
        if times_T is None or len(times_T) == 1:
            return even(found, self._limit, from_left)
        step = self.options.step or self.state.step or float(np.median(np.diff(times_T)))
        return gridded(found, times_T, step, self._limit, from_left)

    def _scaled(self, found: Measured, values_TK: FloatArray) -> FloatArray:
        if self.options.scaling == _UNSCALED:
            return values_TK
        state = self.state
        learnt = (np.array(state.mean), np.array(state.deviation))
        mean_K, deviation_K = moments(found.values_TK) if self.options.scaling == "row" else learnt
        scaled: FloatArray = ((values_TK - mean_K) / deviation_K).clip(-measurements.LARGEST, measurements.LARGEST)
        return scaled

    def _windowed(self, values_TC: Array, steps: Steps, spans: bool) -> Encoded:
        length = len(values_TC)
        filled = np.zeros((1, self.window or length, values_TC.shape[1]), dtype=np.float32)
        filled[0, filled.shape[1] - length :] = values_TC
        covered = steps.spans_T2[steps.spans_T2[:, 1] > 0]
        span = [[int(covered[:, 0].min()), int(covered[:, 1].max())]] if spans and len(covered) else [[0, 0]]
        return Encoded(inputs={VALUES: filled}, spans_T2=np.array(span, dtype=np.int32), dropped=steps.dropped)

    @classmethod
    def unreadable(cls, raw: Any) -> str:
        """Return why a value is no series, or an empty string."""
        return measurements.unreadable(raw)

    def as_json(self, raw: Any) -> JSON:
        """Return a series as lists of numbers, with its times where it has any."""
        return measurements.as_json(measurements.read(raw))

    def shortened(self, raw: Any, limit_bytes: int) -> JSON:
        """Return a series as lists of numbers, cut behind what takes more room than this."""
        found = measurements.read(raw)
        wide = found.channels + (found.times_T is not None)
        most = max(1, limit_bytes // (_BYTES_A_NUMBER * wide))
        first = int(np.flatnonzero(~np.isnan(found.values_TK).all(axis=1))[0]) if len(found) > most else 0
        cut = slice(first, first + most)
        times_T = None if found.times_T is None else found.times_T[cut]
        return measurements.as_json(Measured(found.values_TK[cut], times_T))

    def spec(self) -> dict[str, JSON]:
        """Return the state that is not in files, as JSON."""
        return {"options": to_json(self.options), "window": self.window}

    def save(self, folder: Path) -> None:
        """Write `series_config.json`: what was learnt from the training rows."""
        (folder / STATE_FILE).write_text(json.dumps(self.state.to_json(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, spec: JSON) -> Self:
        """Rebuild from the `save`d file and `spec`; encodes the same bytes as before.

        Raises:
            ArtifactError: The file is missing or holds something else.
        """
        path = folder / STATE_FILE
        try:
            state = State.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError) as error:
            what = "what was learnt about the series cannot be read"
            fix = "restore the file from its source, or fit again"
            raise ArtifactError(Problem(what=what, where=str(path), got=str(error)[:200], fix=fix)) from error
        return cls(build(SeriesOptions, spec["options"], owner=cls.name), state, window=spec["window"])

    @classmethod
    def recognises(cls, values: Sequence[Any]) -> bool:
        """Return whether values look like series: lists of numbers, in memory, in Arrow or as JSON text."""
        seen = values[:_LOOKED_AT]
        return bool(seen) and sum(map(measurements.looks_like_one, seen)) >= 0.9 * len(seen)

    @classmethod
    def example(cls, signal_NS: FloatArray, seed: int) -> list[Any]:
        """Render numbers as series: a plateau as high as each, between 0 and 1, under some noise, and a tail of some length."""
        return _rendered(signal_NS, seed, 1)

    def made_up(self, signal_NS: FloatArray, seed: int) -> list[Any]:
        """Render numbers as series of as many channels as the training rows had."""
        return _rendered(signal_NS, seed, self.state.channels)


def learnt(options: SeriesOptions, chunks: Iterable[Sequence[Any]]) -> State:
    """Return what the training rows say: channels, whether there are gaps, the usual distance of times, mean and deviation.

    Args:
        options: What is wanted.
        chunks: Raw values.

    Raises:
        DataError: There is no row, or rows have different numbers of channels.
    """
    return State.of_rows((measurements.read(raw) for chunk in chunks for raw in chunk), mask=options.mask)


def _rendered(signal_NS: FloatArray, seed: int, channels: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    signal_NS = np.clip(np.asarray(signal_NS, dtype=float), 0.0, 1.0)
    rows: list[Any] = []
    for numbers in signal_NS:
        plateaus = np.repeat(numbers, _PLATEAU)
        tail = np.repeat([1.0, 0.0], _PLATEAU + rng.integers(0, _PLATEAU))  # low and high, whatever a row is scaled by
        shape_T1 = np.concatenate([plateaus, tail])[:, None]
        values_TK = np.round(shape_T1 + _NOISE * rng.standard_normal((len(shape_T1), channels)), 4)
        rows.append(values_TK[:, 0].tolist() if channels == 1 else values_TK.tolist())
    return rows


def _channels(number: int) -> str:
    return "1 channel" if number == 1 else f"{number} channels"


__all__ = ["STATE_FILE", "VALUES", "Series", "SeriesOptions", "State", "learnt"]
