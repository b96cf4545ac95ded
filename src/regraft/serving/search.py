"""Search among rows: they are asked for with one part of a pair and found by the other, the nearest first.

With a list of names as what can be found, pictures are told apart by names that no training row had (zero-shot classification):
the probability of a name is the softmax of the logits over the list, with the temperature that was learnt. With the loss
sigmoid it is the sigmoid of the logit: of each name by itself, so that none may be likely, or several.

Shapes: Q rows that ask, N rows that can be found, C numbers that the network gives for a part of a row, K places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import DataError, Problem, UsageError, did_you_mean
from regraft.modalities.fusion import Fusion, Part
from regraft.options import JSON
from regraft.tasks import TASKS, Task
from regraft.types import Array, FloatArray, Ledger

if TYPE_CHECKING:
    from regraft.data.rows import RowSource
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


@dataclass(frozen=True, kw_only=True)
class Question:
    """How rows are asked for.

    Args:
        top: Rows that are found for each row that asks, at least 1.
        by: Name of the part that asks; found by looking at the columns of both sides if None.
        batch_size: Rows a forward pass.
        strict: Whether a row that cannot be read is an error.
        opens_files: Whether values may be paths of files, which are read: never where they came over HTTP.
        by_name: What messages call `by`.
    """

    top: int = 10
    by: str | None = None
    batch_size: int = 32
    strict: bool = False
    opens_files: bool = True
    by_name: str = "--by"


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
    if _plain(given):
        return [{part.columns[0]: value} for value in given]
    return given


def chosen(
    parts: tuple[Part, Part], asking: Sequence[str], among: Sequence[str], by: str | None, by_name: str = "--by"
) -> tuple[Part, Part]:
    """Return the part that asks and the one that is looked for.

    Args:
        parts: The two parts of a row.
        asking: Columns of the rows that ask.
        among: Columns of the rows that can be found.
        by: Name of the part that asks, if it was said.
        by_name: What messages call `by`.

    Raises:
        DataError: Columns are missing, or could be read in two ways.
    """
    _check_known(parts, by, by_name)
    ways = [pair for pair in (parts, parts[::-1]) if by in {None, pair[0].name}]
    fitting = [(one, other) for one, other in ways if {*one.read} <= {*asking} and {*other.read} <= {*among}]
    if len(fitting) == 1:
        return fitting[0]
    got = f"rows that ask with {_listed(asking)}; rows to be found with {_listed(among)}"
    if fitting:
        what = "it is not clear which part asks: the columns of both are on both sides"
        fix = "say which part asks: " + " or ".join(f"{by_name} {part.name}" for part in parts)
        raise DataError(Problem(what=what, got=got, fix=fix))
    expected = " or ".join(f"{_listed(one.read)} asking, {_listed(other.read)} to be found" for one, other in ways)
    what = "the columns that are read are not there"
    raise DataError(Problem(what=what, got=got, expected=expected, fix="name the columns as in the data it was fitted to"))


def _check_known(parts: tuple[Part, Part], by: str | None, by_name: str) -> None:
    if by is not None and by not in [part.name for part in parts]:
        fix, expected = did_you_mean(by, [part.name for part in parts]), " or ".join(f"'{part.name}'" for part in parts)
        raise DataError(Problem(what=f"the artifact reads no part '{by}'", where=by_name, expected=expected, fix=fix))


def _plain(given: Any) -> bool:
    return isinstance(given, list | tuple) and bool(given) and not any(isinstance(value, Mapping) for value in given)


def open_sides(
    predictor: Predictor, queries: Any, among: Any, question: Question, opened: Callable[[Any], RowSource]
) -> tuple[tuple[Part, RowSource], tuple[Part, RowSource]]:
    """Open the rows that ask and those that can be found; return each with the part that is read of it.

    Args:
        predictor: Of two towers.
        queries: Rows that ask: data, or a list of plain values of one part.
        among: Rows that can be found, the same.
        question: Which part asks, if it was said.
        opened: Opens data.

    Raises:
        UsageError: The predictor holds no parts against each other.
        DataError: Columns are missing, or could be read in two ways; no part has the name that was said; there are no rows.
    """
    parts, by = parts_of(predictor), question.by
    _check_known(parts, by, question.by_name)
    plain = [_plain(given) for given in (queries, among)]
    if any(plain):
        first = _guessed(parts, queries if plain[0] else among, by if plain[0] or by is None else _other(parts, by))
        asked = first if plain[0] else _other(parts, first)
        one = next(part for part in parts if part.name == asked)
        other = next(part for part in parts if part.name != asked)
        queries, among, by = tabled(queries, one), tabled(among, other), one.name
    rows = opened(queries), opened(among)
    one, other = chosen(parts, rows[0].columns, rows[1].columns, by, question.by_name)
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
    predictor: Predictor, part: Part, rows: RowSource, question: Question
) -> Iterator[tuple[FloatArray, list[str], list[dict[str, JSON]]]]:
    """Yield, for a window of rows at a time, outputs (B, C) of one part, why rows have none, and what people can read of them.

    Args:
        predictor: Gives the outputs.
        part: Which part; the other one is missing in every row.
        rows: The rows.
        question: How many go through the network at once, and whether values may name files.
    """
    from regraft.data.gathering import together

    place = [other.key for other in parts_of(predictor)].index(part.key)
    for chunk in rows.chunks(_WINDOW_ROWS):
        nothing = dict.fromkeys(predictor.columns)
        raws: list[Any] = [{**nothing, **row} for row in together(chunk.rows, part.read)]
        unopened: dict[int, str] = {}
        if question.opens_files:
            raws, unopened = predictor.modality.brought(raws, chunk.folder)
        problems = {row: Problem(what=why, fix="correct or remove the row") for row, why in unopened.items()} | dict(chunk.bad)
        found = predictor.window(raws, problems, question.batch_size)
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


def collection(
    predictor: Predictor, part: Part, rows: RowSource, question: Question, told: Callable[[int], object] = lambda read: None
) -> Collection:
    """Return all rows that can be found, answered.

    Args:
        predictor: Gives the outputs.
        part: The part that is looked for.
        rows: The rows.
        question: How they are answered.
        told: Called with the number of rows that were read so far.

    Raises:
        DataError: None can be read; or, with `strict`, one cannot.
    """
    kept: list[FloatArray] = []
    numbers: list[int] = []
    about: list[Mapping[str, JSON]] = []
    ledger, read = Ledger(), 0
    for made_BC, errors, readable in outputs(predictor, part, rows, question):
        good = [row for row, error in enumerate(errors) if not error]
        for row, error in enumerate(errors):
            if error:
                ledger.add("rows that cannot be found", 1, f"{rows.name}, row {read + row + 1}: {error}")
        kept += [made_BC[good]] if good else []
        numbers += [read + row for row in good]
        about += [readable[row] for row in good]
        read += len(errors)
        told(read)
    lost = read - len(numbers)
    if not numbers or (lost and question.strict):
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
    predictor: Predictor, part: Part, rows: RowSource, held: Collection, question: Question
) -> Iterator[list[tuple[Found, dict[str, JSON]]]]:
    """Yield what was found for each row that asks, and what people can read of it, a window at a time.

    Raises:
        DataError: With `strict`, a row that asks cannot be read.
    """
    first = 0
    for made_QC, errors, told in outputs(predictor, part, rows, question):
        bad = [f"{rows.name}, row {first + row + 1}: {error}" for row, error in enumerate(errors) if error]
        if bad and question.strict:
            what, fix = f"{len(bad):,} rows that ask cannot be read", "mend the rows, or leave strict out"
            raise DataError(Problem(what=what, where="; ".join(bad[:3]), fix=fix))
        good = [row for row, error in enumerate(errors) if not error]
        matches = dict(zip(good, nearest(predictor.task, made_QC[good], held, question.top), strict=True)) if good else {}
        yield [
            (Found(row=first + row, matches=matches.get(row, ()), error=error), told[row]) for row, error in enumerate(errors)
        ]
        first += len(errors)


def search(predictor: Predictor, queries: Sequence[Any], among: Sequence[Any], question: Question) -> list[Found]:
    """Return what was found for each row that asks, in order, of rows that are in memory.

    Args:
        predictor: Of two towers.
        queries: Rows that ask: mappings from column to value, or plain values of one part.
        among: Rows that can be found, the same.
        question: How they are asked for.

    Raises:
        UsageError: The predictor holds no parts against each other.
        DataError: Columns are missing, or could be read in two ways; nothing can be found; with `strict`, a row cannot be read.

    Example:
        `search(predictor, ["a cat", "a dog"], [{"photo": content}], Question(top=1))`
    """
    from regraft.data.options import DataOptions
    from regraft.data.rows import open_rows

    (one, asking), (other, there) = open_sides(
        predictor, queries, among, question, lambda rows: open_rows(rows, DataOptions(), split="test")
    )
    held = collection(predictor, other, there, question)
    return [found for window in answers(predictor, one, asking, held, question) for found, _ in window]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "no columns"


__all__ = [
    "Collection",
    "Found",
    "Match",
    "Question",
    "answers",
    "chosen",
    "collection",
    "nearest",
    "open_sides",
    "parts_of",
    "search",
]
