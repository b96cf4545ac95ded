"""The stages of a verb: announced, timed, and where its notes come from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from regraft.training.events import Event, NoteEvent, ProgressEvent, StageEvent

Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing."""


class Stages:
    """Time the stages of one verb and tell a listener about them.

    Args:
        listen: Called with every event.

    Example:
        >>> stages = Stages(ignore)
        >>> with stages("read"):
        ...     pass
        >>> list(stages.seconds)
        ['read']
    """

    def __init__(self, listen: Listener) -> None:
        self.listen = listen
        self.seconds: dict[str, float] = {}
        self._begin = time.perf_counter()

    @property
    def total(self) -> float:
        """Seconds since the verb began."""
        return time.perf_counter() - self._begin

    @contextmanager
    def __call__(self, stage: str, total: int | None = None) -> Iterator[None]:
        """Announce a stage and add the time it takes to `seconds`.

        Args:
            stage: What is done, for people and for the report.
            total: Rows or steps it will take, if known.
        """
        self.listen(StageEvent(step=0, seconds=self.total, stage=stage, total=total))
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begin

    def part(self, stage: str, name: str, seconds: float) -> None:
        """Count time of a stage that is over under a name of its own: what is interleaved cannot be a stage by itself.

        Args:
            stage: The stage.
            name: Of the part.
            seconds: What the part took; at most what the stage has.
        """
        taken = min(seconds, self.seconds[stage])
        self.seconds[stage] -= taken
        self.seconds[name] = self.seconds.get(name, 0.0) + taken

    def note(self, text: str, level: str = "info") -> None:
        """Tell the listener something a person should know."""
        self.listen(NoteEvent(step=0, seconds=self.total, text=text, level=level))

    def notes(self, texts: Iterable[str]) -> None:
        """Tell the listener several things."""
        for text in texts:
            self.note(text)

    def progress(self, done: int) -> None:
        """Tell the listener how far the stage is."""
        self.listen(ProgressEvent(step=0, seconds=self.total, done=done))
