"""The events of a training in a file: one JSON object a line, appended as they happen.

    log = EventLog(folder / EVENTS)
    log(event)                       what `train` yields, one after the other
    place = log.position             kept with a checkpoint
    log.truncate(place)              whoever goes on from it has no step twice
    [*read(path)]                    the events again

A training that went on after an interruption begins with a `BeginEvent` whose step is not 0; seconds count from there anew.
Numbers that are not finite are null in the file, as JSON wants it, and come back as NaN.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from regraft.errors import ArtifactError, Problem
from regraft.options import JSON
from regraft.training.events import BeginEvent, EndEvent, Event, NoteEvent, StepEvent, ValidEvent

EVENTS = "events.jsonl"
"""Name of the file, in the folder of a run and in an artifact."""
_KINDS = {
    kind.__name__.removesuffix("Event").lower(): kind for kind in (BeginEvent, StepEvent, ValidEvent, EndEvent, NoteEvent)
}
_TRY_AGAIN = 100


class EventLog:
    """Append events to a file; a disk that is full or fails costs nothing but their being in the file later.

    Args:
        path: The file; what it holds stays until `truncate` is called.

    `failure` is what the disk said the last time, else empty. What could not be written is tried again, in order.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.failure = path, ""
        self._waiting: list[bytes] = []
        self._end: int | None = None

    def __call__(self, event: Event) -> None:
        """Append an event."""
        self._waiting.append(line_of(event))
        if not self.failure or len(self._waiting) % _TRY_AGAIN == 0:
            self._write()

    @property
    def position(self) -> int:
        """Bytes of the file; events that waited for the disk are tried once more before it is told."""
        self._write()
        return self._end or 0

    def truncate(self, position: int) -> None:
        """Forget everything after a position that was asked for before; a file that is shorter by now stays as it is."""
        self._waiting.clear()
        self._end = None
        with suppress(FileNotFoundError), self.path.open("r+b") as file:
            end = min(position, file.seek(0, os.SEEK_END))
            file.seek(max(0, end - 1))
            if end and file.read(1) != b"\n":
                # Shorter than it was: a power cut. What is left of its last line is not an event.
                file.seek(0)
                end = file.read(end).rfind(b"\n") + 1
            file.truncate(end)
            self._end = end

    def _write(self) -> None:
        if not self._waiting:
            return
        try:
            with self.path.open("ab", buffering=0) as file:
                if self._end is None:
                    self._end = file.seek(0, os.SEEK_END)
                content = b"".join(self._waiting)
                try:
                    written = file.write(content)
                    if written != len(content):
                        raise OSError(f"{written} of {len(content)} bytes were written")
                except OSError:
                    file.truncate(self._end)
                    raise
        except OSError as error:
            self.failure = error.strerror or str(error)
            return
        self._end += len(content)
        self._waiting.clear()
        self.failure = ""


def line_of(event: Event) -> bytes:
    r"""Return the line of a file that an event is.

    Example:
        >>> line_of(ValidEvent(step=5, seconds=0.5, metrics={"accuracy": math.nan}))
        b'{"event": "valid", "step": 5, "seconds": 0.5, "metrics": {"accuracy": null}, "best": false}\n'
    """
    return (json.dumps(_finite(event.to_json()), allow_nan=False, ensure_ascii=False) + "\n").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    return value


def read(path: Path) -> Iterator[Event]:
    """Yield the events of a file, the first first; a last line that is not whole, and kinds that are not known, are left out.

    Raises:
        ArtifactError: A line is not an event.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                event = event_of(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                what, fix = "a line is not an event of a training", "get the file from its source"
                where = f"{path}, line {number}"
                raise ArtifactError(Problem(what=what, where=where, got=str(error)[:200], fix=fix)) from None
            if event is not None:
                yield event


def event_of(values: Mapping[str, JSON]) -> Event | None:
    """Return the event that `Event.to_json` gave; nothing where it is of no known kind. Fields that are not known are left out.

    Example:
        >>> event_of({"event": "end", "step": 5, "seconds": 1.0, "reason": "done", "best_step": 3})
        EndEvent(step=5, seconds=1.0, reason='done', best_step=3)
    """
    kind = _KINDS.get(str(values["event"]))
    if kind is None:
        return None
    known = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: _number(value) for name, value in values.items() if name in known})


def _number(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _number(one) for name, one in value.items()}
    return math.nan if value is None else value
