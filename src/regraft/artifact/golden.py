"""Golden rows: a few inputs with the exact answers they had when the artifact was judged.

They travel with the artifact and are replayed by a fresh process when it is written, and by a server before it says ready.
In the same environment (runtime, versions, threads, processor) the answers must be equal bit for bit; elsewhere, where sums are
done in another order, probabilities may differ by 1e-5, so that only classes closer than 2e-5 can change places, and the answer
must be the same unless the first two are that close. Where a task has no probabilities its raw outputs may differ by as much,
relative to the row's largest one above 1, and its task says which answers agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np

from regraft.errors import ArtifactError, GateError, Problem
from regraft.options import JSON
from regraft.tasks.task import decided
from regraft.types import FloatArray, Prediction

COUNT = 16
BATCH_SIZE = 32
TOLERANCE = 1e-5
_ROW_LIMIT_BYTES = 10_000


Same = Callable[[Prediction, Prediction, float], bool]
"""Whether an older and a newer answer agree where what they are made of may have moved so far."""


def same_label(was: Prediction, now: Prediction, near: float) -> bool:
    """Return whether two answers agree that are the most probable label."""
    return was.value == now.value or not decided(was.probabilities, near)


class Answering(Protocol):
    """What replaying needs of a predictor."""

    def answers(self, rows: Sequence[Any], *, batch_size: int = BATCH_SIZE) -> tuple[FloatArray, list[Prediction]]:
        """Return the raw outputs (B, ...) and the predictions for rows that can all be answered."""

    def environment(self) -> dict[str, JSON]:
        """Return everything that may change the last bits of an answer."""


@dataclass(frozen=True, kw_only=True)
class Goldens:
    """Inputs and their answers.

    Args:
        rows: Raw values (JSON).
        outputs: Raw output of the head for each row, flattened; exact.
        probabilities: Label name -> probability for each row; exact; empty where a task has none.
        values: The answer for each row.
        environment: Where the answers were computed.
        batch_size: Rows a forward pass.
        tolerance: How far a probability may move in another environment. Where precision was reduced, that is as far as
            reducing it moved them: a last bit can tip a number over to the next whole one. Where calibrating lets a move of the
            network's own outputs grow, it is larger by as much.
    """

    rows: tuple[JSON, ...]
    outputs: tuple[tuple[float, ...], ...]
    probabilities: tuple[dict[str, float], ...]
    values: tuple[JSON, ...]
    environment: dict[str, JSON]
    batch_size: int = BATCH_SIZE
    tolerance: float = TOLERANCE

    def to_json(self) -> dict[str, JSON]:
        """Return everything as JSON; floats keep every bit, because they are written with as many digits as it takes."""
        rows = zip(self.rows, self.outputs, self.probabilities, self.values, strict=True)
        return {
            "environment": self.environment,
            "batch_size": self.batch_size,
            **({"tolerance": self.tolerance} if self.tolerance != TOLERANCE else {}),
            "rows": [{"input": i, "output": list(o), "probabilities": p, "value": v} for i, o, p, v in rows],
        }

    @classmethod
    def from_json(cls, values: JSON) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ArtifactError: It is something else.
        """
        try:
            rows = values["rows"]
            return cls(
                rows=tuple(row["input"] for row in rows),
                outputs=tuple(tuple(float(number) for number in row["output"]) for row in rows),
                probabilities=tuple({str(k): float(p) for k, p in row["probabilities"].items()} for row in rows),
                values=tuple(row["value"] for row in rows),
                environment=dict(values["environment"]),
                batch_size=int(values["batch_size"]),
                tolerance=float(values.get("tolerance", TOLERANCE)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            fix = "fit it again with this version"
            problem = Problem(what="the golden rows cannot be read", got=f"{type(error).__name__}: {error}", fix=fix)
            raise ArtifactError(problem) from None


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What came of replaying golden rows.

    Args:
        rows: How many there were.
        worst: Largest difference of a probability (of a raw output where a task has no probabilities).
        bitwise: Whether all outputs were equal bit for bit.
        same_environment: Whether they had to be.
    """

    rows: int
    worst: float
    bitwise: bool
    same_environment: bool

    def to_json(self) -> dict[str, JSON]:
        """Return the fields as a JSON object."""
        return dict(vars(self))


def choose(raws: Sequence[Any], labels: Sequence[Any], lengths: Sequence[int], *, seed: int, count: int = COUNT) -> list[int]:
    """Choose rows that are spread over labels and lengths; the shortest and the longest are always among them.

    Args:
        raws: Raw values.
        labels: What each row's answer should be (or is); rows are taken from each label in turn.
        lengths: Positions of each row.
        seed: Decides between rows that are equally good.
        count: How many to choose at most.

    Returns:
        Positions in `raws`, in ascending order. Rows over 10 kB are left out while there are others.
    """
    fitting = [i for i in range(len(raws)) if _size(raws[i]) <= _ROW_LIMIT_BYTES] or list(range(len(raws)))
    draw = np.random.default_rng(seed).permutation(len(raws))
    by_length = sorted(fitting, key=lambda i: (lengths[i], draw[i]))
    chosen = dict.fromkeys([by_length[0], by_length[-1]] if by_length else [])
    names = sorted({str(labels[i]) for i in by_length})
    queues = [_spread([i for i in by_length if str(labels[i]) == name]) for name in names]
    while len(chosen) < min(count, len(by_length)):
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.setdefault(queue.pop(0))
    return sorted(chosen)


def _spread(rows: list[int]) -> list[int]:
    """Return rows sorted by length in an order whose every beginning is spread over the lengths: middle, quarters, eighths."""
    taken: dict[int, None] = {}
    pieces = 2
    while len(taken) < len(rows):
        taken |= dict.fromkeys(rows[len(rows) * k // pieces] for k in range(1, pieces, 2))
        if pieces > 2 * len(rows):
            taken |= dict.fromkeys(rows)
        pieces *= 2
    return list(taken)


def _size(raw: object) -> int:
    if isinstance(raw, bytes):
        return len(raw)
    return len(raw.encode()) if isinstance(raw, str) else len(json.dumps(raw, default=str))


def shortened_text(raw: Any, limit_bytes: int) -> Any:
    """Return the beginning of a text that takes more room than this, and anything else as it is."""
    return raw[: limit_bytes // 4] if isinstance(raw, str) and _size(raw) > limit_bytes else raw


def record(
    predictor: Answering, rows: Sequence[Any], shortened: Callable[[Any, int], JSON] = shortened_text, steepness: float = 1.0
) -> Goldens:
    """Return golden rows with the answers that the predictor gives now.

    Args:
        predictor: Answers.
        rows: Raw values.
        shortened: Makes a value JSON, and smaller before it is answered where it takes more than 10 kB.
        steepness: By what factor calibrating lets a move grow (`Task.steepness`): outputs may move no more than elsewhere.
    """
    kept = [shortened(row, _ROW_LIMIT_BYTES) for row in rows]
    outputs, predictions = predictor.answers(kept, batch_size=BATCH_SIZE)
    if not np.isfinite(outputs).all():
        what = "the network's output is not a finite number for a row that every copy of the artifact has to answer"
        raise GateError(Problem(what=what, fix="lower the learning rate and fit again"))
    return Goldens(
        rows=tuple(kept),
        outputs=tuple(tuple(float(number) for number in row.ravel()) for row in outputs),
        probabilities=tuple(dict(prediction.probabilities) for prediction in predictions),
        values=tuple(prediction.value for prediction in predictions),
        environment=predictor.environment(),
        tolerance=TOLERANCE * max(1.0, steepness),
    )


def replay(predictor: Answering, goldens: Goldens, agree: Same = same_label) -> Replay:
    """Answer the golden rows again and compare.

    Args:
        predictor: Answers.
        goldens: What was recorded.
        agree: Says whether two answers agree, as the task sees it (`Task.same_answer`).

    Raises:
        GateError: An answer moved further than stated; names the worst row.
    """
    if not goldens.rows:
        return Replay(rows=0, worst=0.0, bitwise=True, same_environment=True)
    outputs, predictions = predictor.answers(goldens.rows, batch_size=goldens.batch_size)
    moved = [_moved(goldens, i, outputs[i], predictions[i]) for i in range(len(goldens.rows))]
    equal = [tuple(float(number) for number in row.ravel()) == goldens.outputs[i] for i, row in enumerate(outputs)]
    same = predictor.environment() == goldens.environment
    # A row whose bits moved counts as worse than one whose bits did not, whatever the size of the move.
    worst = max(range(len(moved)), key=lambda i: (not equal[i], moved[i]))
    result = Replay(rows=len(moved), worst=max(moved), bitwise=all(equal), same_environment=same)
    if same and not result.bitwise:
        raise _gate(goldens, worst, predictions[worst], result, "the same bits in the same environment")
    if not result.worst <= goldens.tolerance:
        raise _gate(goldens, worst, predictions[worst], result, f"at most {goldens.tolerance:g} in another environment")
    for row, prediction in enumerate(predictions):
        was = Prediction(value=goldens.values[row], probabilities=goldens.probabilities[row], logits=goldens.outputs[row])
        if not agree(was, prediction, goldens.tolerance):
            raise _gate(goldens, row, prediction, result, "the same answer")
    return result


def _moved(goldens: Goldens, row: int, output: FloatArray, prediction: Prediction) -> float:
    """Return how far one answer moved; infinite when it is not of the same shape or not a number."""
    was, now = goldens.probabilities[row], prediction.probabilities
    if set(was) != set(now):
        return float("inf")
    old = np.array(list(was.values()) if was else goldens.outputs[row])
    new = np.array([now[name] for name in was] if was else output.ravel(), dtype=np.float64)
    if old.shape != new.shape or not np.isfinite(new).all():
        return float("inf")
    scale = 1.0 if was else max(1.0, float(np.abs(old).max(initial=0.0)))
    return float(np.abs(old - new).max(initial=0.0)) / scale


def _gate(goldens: Goldens, row: int, now: Prediction, result: Replay, expected: str) -> GateError:
    shown = json.dumps(goldens.rows[row], ensure_ascii=False)
    shown = shown if len(shown) <= 120 else shown[:117] + "..."
    was = f"{goldens.values[row]!r} {goldens.probabilities[row] or list(goldens.outputs[row])}"
    return GateError(
        Problem(
            what=f"a golden row is not answered as it was when the artifact was judged (worst difference {result.worst:.3g})",
            where=f"golden row {row + 1} of {result.rows}: {shown}",
            got=f"{now.value!r} {dict(now.probabilities)}",
            expected=f"{was}; {expected}",
            fix="do not use this artifact here: install the versions in its manifest, or fit it again",
        )
    )
