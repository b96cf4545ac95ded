"""What `retrieve` adds to `regraft.serving.search`: rows of any data, and what was found as lines of a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from regraft.answering import opened, source
from regraft.options import JSON
from regraft.serving.search import Collection, Found, Match, Question, answers, collection, open_sides
from regraft.training.stages import Stages
from regraft.types import Ledger
from regraft.verbs import RetrieveOptions

if TYPE_CHECKING:
    from regraft.artifact.store import Artifact
    from regraft.data.rows import RowSource
    from regraft.data.write import StreamWriter
    from regraft.data.writer import Writer
    from regraft.serving.predictor import Predictor


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
    question = Question(top=wanted.top, by=wanted.by, batch_size=wanted.batch_size, strict=wanted.strict)
    sides = open_sides(predictor, queries, among, question, lambda data: source(data, wanted, stages))
    (one, asking), (other, there) = sides
    with stages("read what can be found", there.row_count):
        held = collection(predictor, other, there, question, stages.progress)
    return answers(predictor, one, asking, held, question), held, asking


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


__all__ = ["Found", "Match", "asked", "written"]
