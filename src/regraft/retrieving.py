"""What `retrieve` is made of: rows that ask with one part, rows that can be found by the other, and what is near what.

With a list of names as what can be found, pictures are told apart by names that no training row had (zero-shot classification):
the probability of a name is the softmax of the logits over the list, with the temperature that was learnt. With the loss
sigmoid it is the sigmoid of the logit: of each name by itself, so that none may be likely, or several.

Shapes: Q rows that ask, N rows that can be found, C numbers that the network gives for a part of a row, K places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from regraft.answering import opened, source
from regraft.errors import DataError, Problem, UsageError, did_you_mean
from regraft.modalities.fusion import Fusion, Part
from regraft.options import JSON
from regraft.tasks import TASKS, Task
from regraft.training.stages import Stages
from regraft.types import Array, FloatArray, Ledger
from regraft.verbs import AnswerOptions, RetrieveOptions

if TYPE_CHECKING:
    from regraft.artifact.store import Artifact
    from regraft.data.rows import RowSource
    from regraft.data.write import StreamWriter
    from regraft.data.writer import Writer
    from regraft.serving.predictor import Predictor

_WINDOW_ROWS = 1024
_SHOWN_CHARACTERS = 200
_PLAIN = (str, int, float, bool)


@dataclass(frozen=True, kw_only=True)
class Match:
    """One row that was found.

    Args:
        row: Its position in what could be found, counted from 0.
        cosine: Of the two vectors, -1 to 1.
        probability: That it is this one and no other of all that could be found; of an artifact that was fitted with the loss
            sigmoid, that the two belong together, whatever else could be found.
        about: Its columns that people can read: texts, numbers.
    """

    row: int
    cosine: float
    probability: float
    about: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found for one row.

    Args:
        row: Its position among the rows that ask, counted from 0.
        matches: The nearest first; none where the row cannot be read.
        error: Why it cannot be.
    """

    row: int
    matches: tuple[Match, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Collection:
    """Rows that can be found.

    Args:
        outputs_NC: What the network gave for them, their vectors and what the task learnt beside; `Task.matched` takes it.
        rows_N: Their positions, counted from 0: rows that cannot be read are not among them.
        about: Of each row the columns that people can read.
        ledger: Rows that cannot be read.
    """

    outputs_NC: FloatArray
    rows_N: Array
    about: Sequence[Mapping[str, JSON]]
    ledger: Ledger


def parts_of(predictor: Predictor) -> tuple[Part, Part]:
    """Return the two parts of the rows that an artifact reads.

    Raises:
        UsageError: It does not hold parts against each other.
    """
    modality = predictor.modality
    if not predictor.task.paired or not isinstance(modality, Fusion):
        able = " or ".join(name for name in TASKS if TASKS.get(name).paired)
        what = "this artifact does not bring parts of a row into one space"
        got, fix = f"the task '{predictor.task.name}'", f"give an artifact that was fitted with --task {able}"
        raise UsageError(Problem(what=what, got=got, fix=fix))
    first, second = modality.parts
    return first, second


def tabled(given: Any, part: Part) -> Any:
    """Return a list of plain values as rows of the column of a part; anything else as it is."""
    if isinstance(given, list | tuple) and not any(isinstance(value, Mapping) for value in given):
        return [{part.columns[0]: value} for value in given]
    return given


def chosen(parts: tuple[Part, Part], asking: Sequence[str], among: Sequence[str], by: str | None) -> tuple[Part, Part]:
    """Return the part that asks and the one that is looked for.

    Args:
        parts: The two parts of a row.
        asking: Columns of the rows that ask.
        among: Columns of the rows that can be found.
        by: Name of the part that asks, if it was said.

    Raises:
        DataError: Columns are missing, or could be read in two ways.
    """
    if by is not None and by not in [part.name for part in parts]:
        fix, expected = did_you_mean(by, [part.name for part in parts]), " or ".join(f"'{part.name}'" for part in parts)
        raise DataError(Problem(what=f"the artifact reads no part '{by}'", where="--by", expected=expected, fix=fix))
    ways = [pair for pair in (parts, parts[::-1]) if by in {None, pair[0].name}]
    fitting = [(one, other) for one, other in ways if {*one.read} <= {*asking} and {*other.read} <= {*among}]
    if len(fitting) == 1:
        return fitting[0]
    got = f"rows that ask with {_listed(asking)}; rows to be found with {_listed(among)}"
    if fitting:
        what = "it is not clear which part asks: the columns of both are on both sides"
        fix = "say which part asks: " + " or ".join(f"--by {part.name}" for part in parts)
        raise DataError(Problem(what=what, got=got, fix=fix))
    expected = " or ".join(f"{_listed(one.read)} asking, {_listed(other.read)} to be found" for one, other in ways)
    what = "the columns that are read are not there"
    raise DataError(Problem(what=what, got=got, expected=expected, fix="name the columns as in the data it was fitted to"))


def open_sides(
    predictor: Predictor, queries: Any, among: Any, wanted: RetrieveOptions, stages: Stages
) -> tuple[tuple[Part, RowSource], tuple[Part, RowSource]]:
    """Open the rows that ask and those that can be found; return each with the part that is read of it."""
    parts, by = parts_of(predictor), wanted.by
    plain = [
        isinstance(given, list | tuple) and not any(isinstance(row, Mapping) for row in given) for given in (queries, among)
    ]
    if any(plain):
        first = _guessed(parts, queries if plain[0] else among, by if plain[0] or by is None else _other(parts, by))
        asked = first if plain[0] else _other(parts, first)
        one = next(part for part in parts if part.name == asked)
        other = next(part for part in parts if part.name != asked)
        queries, among, by = tabled(queries, one), tabled(among, other), one.name
    rows = source(queries, wanted, stages), source(among, wanted, stages)
    one, other = chosen(parts, rows[0].columns, rows[1].columns, by)
    return (one, rows[0]), (other, rows[1])


def _other(parts: tuple[Part, Part], name: str) -> str:
    return next((part.name for part in parts if part.name != name), name)


def _guessed(parts: tuple[Part, Part], values: Sequence[Any], said: str | None) -> str:
    """Return the name of the part that plain values are of: as it was said, else the only one that can read them."""
    if said is not None:
        return said
    able = [part.name for part in parts if not any(part.modality.problem(value) for value in values)]
    if len(able) == 1:
        return able[0]
    what, fix = (
        "it is not clear of which part these values are",
        "give rows that name their columns, or say which part asks (by)",
    )
    got = ", ".join(f"{value!r:.40}" for value in values[:3])
    raise DataError(Problem(what=what, got=got, expected=" or ".join(f"'{part.name}'" for part in parts), fix=fix))


def outputs(
    predictor: Predictor, part: Part, rows: RowSource, wanted: AnswerOptions
) -> Iterator[tuple[FloatArray, list[str], list[dict[str, JSON]]]]:
    """Yield, for a window of rows at a time, outputs (B, C) of one part, why rows have none, and what people can read of them.

    Args:
        predictor: Gives the outputs.
        part: Which part; the other one is missing in every row.
        rows: The rows.
        wanted: How many go through the network at once.
    """
    from regraft.data.gathering import together

    place = [other.key for other in parts_of(predictor)].index(part.key)
    for chunk in rows.chunks(_WINDOW_ROWS):
        nothing = dict.fromkeys(predictor.columns)
        raws: list[Any] = [{**nothing, **row} for row in together(chunk.rows, part.read)]
        raws, unopened = predictor.modality.brought(raws, chunk.folder)
        problems = {row: Problem(what=why, fix="correct or remove the row") for row, why in unopened.items()} | dict(chunk.bad)
        found = predictor.window(raws, problems, wanted.batch_size)
        good = [np.split(np.asarray(one.logits), 2)[place] for one in found if not one.error]
        width = len(good[0]) if good else 0
        made_BC = np.zeros((len(found), width))
        made_BC[[not one.error for one in found]] = good if good else np.zeros((0, width))
        yield made_BC, [one.error for one in found], list(map(_readable, chunk.rows.to_pylist()))


def _readable(row: Mapping[str, Any]) -> dict[str, JSON]:
    return {
        name: value[:_SHOWN_CHARACTERS] if isinstance(value, str) else value
        for name, value in row.items()
        if isinstance(value, _PLAIN)
    }


def collection(predictor: Predictor, part: Part, rows: RowSource, wanted: AnswerOptions, stages: Stages) -> Collection:
    """Return all rows that can be found, answered.

    Raises:
        DataError: None can be read; or, with `strict`, one cannot.
    """
    kept: list[FloatArray] = []
    numbers: list[int] = []
    about: list[Mapping[str, JSON]] = []
    ledger, read = Ledger(), 0
    for made_BC, errors, told in outputs(predictor, part, rows, wanted):
        good = [row for row, error in enumerate(errors) if not error]
        for row, error in enumerate(errors):
            if error:
                ledger.add("rows that cannot be found", 1, f"{rows.name}, row {read + row + 1}: {error}")
        kept += [made_BC[good]] if good else []
        numbers += [read + row for row in good]
        about += [told[row] for row in good]
        read += len(errors)
        stages.progress(read)
    lost = read - len(numbers)
    if not numbers or (lost and wanted.strict):
        what = f"{lost:,} of {read:,} rows to be found cannot be read" if read else "there are no rows to be found"
        where = "; ".join(place for places in ledger.examples.values() for place in places) or rows.name
        raise DataError(Problem(what=what, where=where, fix="mend the rows, or leave them out"))
    return Collection(np.concatenate(kept), np.array(numbers), about, ledger)


def nearest(task: Task, asking_QC: FloatArray, held: Collection, top: int) -> list[tuple[Match, ...]]:
    """Return for each row that asks the rows of the collection nearest to it, the nearest first; the earlier row of equals.

    Args:
        task: Says what is near what.
        asking_QC: As `outputs` gives them.
        held: What can be found.
        top: How many at most.
    """
    cosines_QN, probabilities_QN = task.matched(asking_QC, held.outputs_NC)
    places_QK = np.argsort(-cosines_QN, axis=1, kind="stable")[:, :top]
    return [
        tuple(
            Match(
                row=int(held.rows_N[place]),
                cosine=float(cosines_QN[query, place]),
                probability=float(probabilities_QN[query, place]),
                about=held.about[place],
            )
            for place in places
        )
        for query, places in enumerate(places_QK.tolist())
    ]


def answers(
    predictor: Predictor, part: Part, rows: RowSource, held: Collection, wanted: RetrieveOptions
) -> Iterator[list[tuple[Found, dict[str, JSON]]]]:
    """Yield what was found for each row that asks, and what people can read of it, a window at a time.

    Raises:
        DataError: With `strict`, a row that asks cannot be read.
    """
    first = 0
    for made_QC, errors, told in outputs(predictor, part, rows, wanted):
        bad = [f"{rows.name}, row {first + row + 1}: {error}" for row, error in enumerate(errors) if error]
        if bad and wanted.strict:
            what, fix = f"{len(bad):,} rows that ask cannot be read", "mend the rows, or leave --strict out"
            raise DataError(Problem(what=what, where="; ".join(bad[:3]), fix=fix))
        good = [row for row, error in enumerate(errors) if not error]
        matches = dict(zip(good, nearest(predictor.task, made_QC[good], held, wanted.top), strict=True)) if good else {}
        yield [
            (Found(row=first + row, matches=matches.get(row, ()), error=error), told[row]) for row, error in enumerate(errors)
        ]
        first += len(errors)


def asked(
    artifact: str | Path | Artifact | Predictor,
    queries: Any,
    among: Any,
    wanted: RetrieveOptions,
    stages: Stages,
) -> tuple[Iterator[list[tuple[Found, dict[str, JSON]]]], Collection, RowSource]:
    """Return what is found for each row that asks, as it is asked for; what can be found; and the rows that ask.

    Args:
        artifact: Of two towers.
        queries: Rows that ask.
        among: Rows that can be found.
        wanted: How many are found for each row, and how to read and answer.
        stages: Told about progress.
    """
    predictor = opened(artifact, wanted)
    (one, asking), (other, there) = open_sides(predictor, queries, among, wanted, stages)
    with stages("read what can be found", there.row_count):
        held = collection(predictor, other, there, wanted, stages)
    return answers(predictor, one, asking, held, wanted), held, asking


def written(windows: Iterable[list[tuple[Found, dict[str, JSON]]]], to: Writer | StreamWriter) -> Ledger:
    """Write one line for each row that was found, rows and places counted from 1; return what could not ask.

    Args:
        windows: As `answers` gives them.
        to: Takes the lines; opened and closed here.
    """
    ledger = Ledger()
    names = ("row", "place", "found_row", "cosine", "probability", "asked", "found", "error")
    types = (pa.int64(), pa.int64(), pa.int64(), pa.float64(), pa.float64(), pa.string(), pa.string(), pa.string())
    schema = pa.schema(list(zip(names, types, strict=True)))
    with to as out:
        out.write(pa.RecordBatch.from_pylist([], schema=schema))
        for window in windows:
            lines: list[dict[str, JSON]] = []
            for found, told in window:
                asked = {"row": found.row + 1, "asked": _said(told)}
                if found.error:
                    ledger.add("rows that cannot ask", 1, f"row {found.row + 1}: {found.error}")
                    lines.append({**asked, "error": found.error})
                for place, match in enumerate(found.matches, start=1):
                    numbers = {"cosine": match.cosine, "probability": match.probability}
                    lines.append({**asked, "place": place, "found_row": match.row + 1, **numbers, "found": _said(match.about)})
            out.write(pa.RecordBatch.from_pylist(lines, schema=schema))
    return ledger


def _said(about: Mapping[str, JSON]) -> str:
    return "; ".join(f"{name}={value}" for name, value in about.items())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "no columns"


__all__ = [
    "Collection",
    "Found",
    "Match",
    "answers",
    "asked",
    "chosen",
    "collection",
    "nearest",
    "open_sides",
    "parts_of",
    "written",
]
