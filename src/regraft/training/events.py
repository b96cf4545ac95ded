"""What the training loop says while it runs. The console draws events, a file records them, a page streams them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, field
from typing import Any

from regraft.typed import record


@record
class Event:
    """Root of the events.

    Args:
        step: Optimiser updates done so far.
        seconds: Since training began.
    """

    step: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the event as one JSON object, its kind under "event"."""
        return {"event": type(self).__name__.removesuffix("Event").lower(), **asdict(self)}


@record
class PartShare:
    """How much of a part of the network learns.

    Args:
        weights: Weights of the part.
        trainable: Those that learn; of a token table only the rows that training uses.
        size_bytes: What it takes while it learns: weights, and of those that learn gradients and the optimiser's state.
    """

    weights: int
    trainable: int
    size_bytes: int


@record
class BeginEvent(Event):
    """Training is about to start.

    Args:
        total_steps: Updates planned.
        rows: Training rows an epoch.
        parameters: Weights of the network.
        trainable: Weights that learn.
        parts: Part of the network ("embeddings", "layers", "adapters", "head", ...) -> how much of it learns.
    """

    total_steps: int
    rows: int
    parameters: int
    trainable: int
    parts: Mapping[str, PartShare] = field(default_factory=dict)


@record
class StepEvent(Event):
    """One update is done.

    Args:
        epoch: Epochs seen so far, as a fraction.
        loss: Mean loss of the batch.
        learning_rate: Rate of the first parameter group.
        gradient_norm: Norm before clipping.
        rows: Rows in this batch.
        positions: Real positions in this batch.
        padded_positions: Positions computed, padding included.
        logs: What the objective says about the batch beside its loss, averaged over the rows.
    """

    epoch: float
    loss: float
    learning_rate: float
    gradient_norm: float
    rows: int
    positions: int
    padded_positions: int
    logs: Mapping[str, float] = field(default_factory=dict)


@record
class ValidEvent(Event):
    """The validation rows were judged.

    Args:
        metrics: Name -> value.
        best: Whether this is the best so far.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    best: bool = False


@record
class EndEvent(Event):
    """Training is over; the best weights are in place.

    Args:
        reason: "done", "max steps", "no improvement".
        best_step: Step whose weights were kept.
        left_out: Updates that were bad and not done.
    """

    reason: str
    best_step: int
    left_out: int = 0


@record
class StageEvent(Event):
    """A stage of a verb begins.

    Args:
        stage: What is done now ("tokenise", "judge").
        total: How many rows or steps it will take, if known.
    """

    stage: str
    total: int | None = None


@record
class ProgressEvent(Event):
    """A stage went on.

    Args:
        done: Rows or steps done in this stage.
    """

    done: int


@record
class NoteEvent(Event):
    """Something a person should know: what was inferred, chosen, lost.

    Args:
        text: One sentence.
        level: "info" or "warning".
    """

    text: str
    level: str = "info"
