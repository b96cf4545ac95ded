"""Which rows an export is held against, what is known about them, and which rows it is calibrated with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.data.rows import open_rows
from regraft.errors import DataError, Problem, UsageError, did_you_mean
from regraft.options import JSON
from regraft.serving.truths import Truths
from regraft.training.stages import Stages
from regraft.verbs import ExportOptions

if TYPE_CHECKING:
    from regraft.serving.predictor import Predictor

_MADE_UP = 48
_FEWEST = 16


@dataclass(frozen=True, kw_only=True)
class ChosenRows:
    """Rows for an export.

    Args:
        rows: Raw values that it is held against, golden rows first.
        truth: What the answer to each should be, None where that is not known.
        calibration: Raw values that it is calibrated with; none of them is held against it.
        told: Where they came from, for people and the manifest.
    """

    rows: Sequence[Any]
    truth: Sequence[JSON]
    calibration: Sequence[Any]
    told: str


def choose_rows(predictor: Predictor, wanted: ExportOptions, stages: Stages, *, calibration: int) -> ChosenRows:
    """Return golden rows and a sample of real ones; without data, golden rows and examples of the modality.

    Args:
        predictor: The source.
        wanted: What was asked for.
        stages: Told about progress.
        calibration: How many rows the exporter asks for.

    Raises:
        UsageError: The exporter asks for rows, and no data were named.
        DataError: The data have not the column that is read, or too few rows that can be answered.
    """
    golden = list(predictor.goldens().rows)
    if wanted.rows is not None:
        drawn = _sample(predictor, wanted, stages, calibration)
        taken = _for_calibration(len(drawn), calibration, wanted)
        kept = drawn[taken:][: wanted.sample]
        told = f"{len(golden)} golden rows and {len(kept)} rows of {Path(str(wanted.rows)).name}"
        return ChosenRows(
            rows=[*golden, *(raw for raw, _ in kept)],
            truth=[*[None] * len(golden), *(truth for _, truth in kept)],
            calibration=[raw for raw, _ in drawn[:taken]],
            told=told + (f", calibrated with {taken} others" if taken else ""),
        )
    if calibration:
        what = "reduced precision is measured with rows of yours, and none are named"
        fix = "name data like those that it will answer with --rows DATA; labelled, if you have them"
        raise UsageError(Problem(what=what, fix=fix))
    signal_NS = np.random.default_rng(wanted.seed).random((_MADE_UP, 4))
    modality = predictor.modality
    made = [modality.as_json(raw) for raw in modality.made_up(signal_NS, wanted.seed) if not modality.problem(raw)]
    told = f"{len(golden)} golden rows and {len(made)} made-up ones; --rows DATA takes real rows"
    return ChosenRows(rows=golden + made, truth=(), calibration=(), told=told)


def _for_calibration(drawn: int, wanted: int, asked: ExportOptions) -> int:
    """Return how many of the drawn rows calibrate: at most half."""
    taken = min(wanted, drawn // 2)
    if wanted and taken < _FEWEST:
        what, fix = "there are too few rows to calibrate with and to judge by", "name more rows with --rows"
        raise DataError(Problem(what=what, where=str(asked.rows), got=f"{drawn}", expected=f"at least {2 * _FEWEST}", fix=fix))
    return taken


def _sample(predictor: Predictor, wanted: ExportOptions, stages: Stages, more: int) -> list[tuple[Any, JSON]]:
    """Return raw values of rows that can be answered with their labels, drawn from all of the data, in random order."""
    rows = open_rows(wanted.rows, wanted.data, split="test")
    stages.notes(rows.notes)
    if missing := [name for name in predictor.columns if name not in rows.columns]:
        what = f"there is no column '{missing[0]}' to read"
        raise DataError(Problem(what=what, where=rows.name, fix=did_you_mean(missing[0], rows.columns)))
    modality = predictor.modality
    drawn = drawn_rows(_labelled(predictor, rows), wanted.sample + more, wanted.seed)
    if not drawn:
        raise DataError(Problem(what="none of the rows can be answered", where=rows.name, fix="name other data with --rows"))
    order = np.random.default_rng(wanted.seed).permutation(len(drawn)) if more else range(len(drawn))
    return [(modality.as_json(drawn[place][0]), drawn[place][1]) for place in order]


def _labelled(predictor: Predictor, rows: Any) -> Iterator[tuple[Any, JSON]]:
    """Yield raw values that can be answered with their labels in the type the artifact knows, None where there is none."""
    modality = predictor.modality
    truths = Truths(predictor, rows.columns)
    for chunk in rows.chunks(modality.chunk_rows):
        raws, _ = modality.brought(predictor.values(chunk.rows), chunk.folder)
        for raw, label in zip(raws, truths.of(chunk.rows), strict=True):
            if not modality.problem(raw):
                yield raw, label


def drawn_rows(rows: Iterable[Any], count: int, seed: int) -> list[Any]:
    """Return at most `count` of the values, each as likely as any other (algorithm R of Vitter 1985), in bounded memory.

    Files are often sorted by label or time: the first rows say little about the rest.

    Example:
        >>> len(drawn_rows(range(100), 5, 0)), drawn_rows("abc", 5, 0)
        (5, ['a', 'b', 'c'])
    """
    generator = np.random.default_rng(seed)
    kept: list[Any] = []
    for seen, row in enumerate(rows):
        if seen < count:
            kept.append(row)
        elif (place := int(generator.integers(seen + 1))) < count:
            kept[place] = row
    return kept
