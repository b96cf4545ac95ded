"""Which rows are shown: the golden ones with the answers that were recorded, or some drawn from data, answered now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft import answering
from regraft.data.reader import row_place
from regraft.errors import DataError, OptionsError, Problem, did_you_mean
from regraft.rendering.renderer import Shown, named
from regraft.sampling import drawn_rows
from regraft.serving.truths import Truths
from regraft.types import Prediction

if TYPE_CHECKING:
    from regraft.serving.predictor import Predictor
    from regraft.training.stages import Stages
    from regraft.verbs import AnswerOptions

_MOST = 1000


@dataclass(frozen=True)
class _Row:
    value: Any
    target: Any
    folder: Path | None
    number: int
    bad: Problem | None


def check_count(rows: int) -> None:
    """Refuse to draw no rows, or more than anybody looks at.

    Raises:
        OptionsError: It is not 1 to 1000.
    """
    if not 1 <= rows <= _MOST:
        raise OptionsError(Problem(what="so many rows are not drawn", got=str(rows), expected=f"1 to {_MOST}", fix="change it"))


def goldens(predictor: Predictor, count: int) -> list[Shown]:
    """Return golden rows with the answers that were recorded when the artifact was made."""
    found = predictor.goldens()
    answers = zip(found.rows, found.probabilities, found.values, strict=True)
    return [
        Shown(row=number, raw=raw, prediction=Prediction(value=value, probabilities=probabilities))
        for number, (raw, probabilities, value) in enumerate(answers, start=1)
    ][:count]


def drawn(predictor: Predictor, data: Any, count: int, wanted: AnswerOptions, stages: Stages) -> list[Shown]:
    """Return rows drawn from all of the data, in their order, answered; files that they name are read for these alone.

    Args:
        predictor: Answers.
        data: A file, a folder, the name of a sample, or any object that `fit` takes.
        count: How many at most.
        wanted: How to read and answer; its seed draws.
        stages: Told about progress.

    Raises:
        DataError: A column is missing, or there are no rows.
    """
    rows = answering.source(data, wanted, stages)
    if missing := [name for name in predictor.columns if name not in rows.columns]:
        what = f"the column '{missing[0]}', which the artifact reads, is missing"
        raise DataError(Problem(what=what, where=rows.name, fix=did_you_mean(missing[0], rows.columns)))
    kept = sorted(drawn_rows(_rows(predictor, rows), count, wanted.seed), key=lambda row: row.number)
    if not kept:
        raise DataError(Problem(what="there are no rows to draw", where=rows.name, fix="name other data"))
    raws, bad = [], {}
    for place, row in enumerate(kept):
        (raw,), wrong = predictor.modality.brought([row.value], row.folder)
        raws.append(raw)
        why = wrong.get(0) or predictor.modality.problem(raw)
        if row.bad or why:
            bad[place] = row.bad or Problem(what=why, where=row_place(rows.name, row.number), fix="correct or remove the row")
    predictions = predictor.window(raws, bad, wanted.batch_size)
    return [
        Shown(
            row=row.number,
            raw=None if place in bad else raws[place],
            prediction=predictions[place],
            truth=None if row.target is None else named(row.target),
        )
        for place, row in enumerate(kept)
    ]


def title(predictor: Predictor, data: Any) -> str:
    """Return what stands above the rows."""
    name = predictor.artifact.path.name if predictor.artifact is not None else "predictor"
    told = "golden rows" if data is None else Path(data).name if isinstance(data, str | Path) else "rows"
    return f"{name}: {told}"


def _rows(predictor: Predictor, rows: Any) -> Iterator[_Row]:
    truths = Truths(predictor, rows.columns)
    number = 0
    for chunk in rows.chunks(predictor.modality.chunk_rows):
        values = predictor.values(chunk.rows)
        targets = truths.of(chunk.rows)
        for place, (value, label) in enumerate(zip(values, targets, strict=True)):
            number += 1
            yield _Row(value, label, chunk.folder, number, chunk.bad.get(place))
