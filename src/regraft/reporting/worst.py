"""The rows that are most wrong, each in a form that a page shows without the data: a small picture, a text, a sound, a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.errors import RegraftError
from regraft.evaluation.answer_kind import kind_for
from regraft.options import JSON
from regraft.rendering.inner import renderer_of
from regraft.rendering.renderer import Piece, Renderer, text_pieces

if TYPE_CHECKING:
    from regraft.evaluation.answers import Answers
    from regraft.modalities.modality import Modality
    from regraft.planning import Plan
    from regraft.tasks.task import Task
    from regraft.types import Array, FloatArray

WORST_ROWS = 50
ROOM_BYTES = 1_600_000
"""What all of them may take on a page that must stay below 3 MB."""


def worst(answers: Answers, modality: Modality, take: Callable[[Array], Sequence[Any]], place: Callable[[int], str]) -> JSON:
    """Return the rows that are most wrong, the worst first, as one JSON object.

    Args:
        answers: What was judged.
        modality: Reads the rows.
        take: Returns the raw values of rows by their positions.
        place: Says where a row stands ("mails.csv, row 17").

    Returns:
        {"wrong": rows that are not answered as they should be, "judged": rows, "most": at most so many are here, "rows":
        [{"row": position from 0, "place", "truth", "answer", "confidence": or None, "cost", "pieces"}]}; pieces are described
        in `regraft.rendering.renderer`.
    """
    kind = kind_for(answers.task)
    rows = answers.worst(WORST_ROWS)
    some = answers.some(rows)
    wrong = int(np.count_nonzero(kind.wrong(answers.targets_N, answers.outputs_NC)))
    sure = kind.confidence(some.outputs_NC) if len(rows) else None
    costs = kind.costs(answers.targets_N, answers.outputs_NC)[rows] if len(rows) else ()
    told = zip(
        rows.tolist(),
        kind.truths(some.targets_N),
        kind.values(some.outputs_NC),
        [None] * len(rows) if sure is None else sure.tolist(),
        [float(cost) for cost in costs],
        take(rows) if len(rows) else (),
        strict=True,
    )
    renderer, room = _renderer(modality), ROOM_BYTES // max(1, len(rows))
    listed = [
        {
            "row": row,
            "place": place(row),
            "truth": truth,
            "answer": answer,
            "confidence": confidence,
            "cost": cost,
            "pieces": _pieces(renderer, raw, room),
        }
        for row, truth, answer, confidence, cost, raw in told
    ]
    return {"wrong": wrong, "judged": len(answers), "most": WORST_ROWS, "rows": listed}


def worst_of_plan(answers: Answers, plan: Plan) -> JSON:
    """Return the worst of the test rows of a fit."""
    dataset = plan.dataset
    split, sight = dataset.split("test"), dataset.sight

    def take(rows: Array) -> list[Any]:
        values = split.take(dataset.input_column, np.sort(rows))
        opened = [sight.opened(value) for value in values] if sight else values
        places = np.argsort(np.argsort(rows))
        return [opened[place] for place in places.tolist()]

    return worst(answers, plan.modality, take, split.place)


class Gathering:
    """Look at rows as they are answered, and hold the raw values of those that are most wrong so far.

    Args:
        task: What is predicted. Where how wrong a row is depends on other rows (several targets, pairs), nothing is held.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.kind = None if task.several or task.paired else kind_for(task)
        self._held: list[tuple[float, int, Any, str]] = []
        self._rows = 0

    def __call__(self, targets_N: Array, outputs_NC: FloatArray, raws: Sequence[Any], places: Sequence[str]) -> None:
        """Take some rows."""
        if self.kind is not None:
            targets_N, outputs_NC = self.kind.checked(targets_N, outputs_NC)
            costs = self.kind.costs(targets_N, outputs_NC)
            for row in np.flatnonzero(self.kind.wrong(targets_N, outputs_NC)).tolist():
                self._held.append((-float(costs[row]), self._rows + row, raws[row], places[row]))
            self._held = sorted(self._held, key=lambda held: held[:2])[:WORST_ROWS]
        self._rows += len(targets_N)

    def found(self, answers: Answers, modality: Modality) -> JSON:
        """Return the worst rows in the form of `worst`; nothing where none could be held.

        Args:
            answers: All that was judged.
            modality: Reads the rows.
        """
        if self.kind is None:
            return {}
        by_row = {row: (raw, place) for _, row, raw, place in self._held}
        return worst(answers, modality, lambda rows: [by_row[row][0] for row in rows.tolist()], lambda row: by_row[row][1])


def _renderer(modality: Modality) -> Renderer | None:
    try:
        return renderer_of(modality)
    except RegraftError:
        return None


def _pieces(renderer: Renderer | None, raw: Any, room: int) -> list[Piece]:
    """Return a row as it is shown; nobody's way of showing it may stop a fit that is done."""
    try:
        return text_pieces(str(raw), room) if renderer is None else renderer.pieces(raw, room)
    except Exception as error:  # noqa: BLE001 - an outside renderer may fail in any way
        return text_pieces(f"this row cannot be shown: {error}", room)
