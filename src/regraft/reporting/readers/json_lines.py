"""Events as JSON lines in a file of their own, all of them, each written out at once."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from regraft.reporting.event_reader import EventReader
from regraft.training.event_log import line_of
from regraft.training.events import Event


class JsonLinesReader(EventReader):
    """Write every event, of every stage, as one JSON object a line; an older file is begun anew."""

    _file: BinaryIO

    @classmethod
    def usual(cls, out: Path) -> str:
        """Return NAME.events.jsonl."""
        return str(out.with_name(f"{out.name}.events.jsonl"))

    def open(self) -> None:
        """Begin the file."""
        path = Path(self.place)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb", buffering=0)

    def __call__(self, event: Event) -> None:
        """Write one event."""
        self._file.write(line_of(event))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
