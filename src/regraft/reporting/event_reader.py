"""What takes the events of a fit elsewhere while it runs: one class a place, chosen by `--log-to NAME[=PLACE]`.

Whatever a reader needs is looked for before any work begins. A reader that fails in the middle is left out from then on, with a
warning: a curve that is not drawn is no reason to lose what is learnt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from regraft.errors import OptionsError, Problem, UnknownNameError
from regraft.registry import require
from regraft.reporting import EVENT_READERS
from regraft.training.events import Event, NoteEvent, StepEvent, ValidEvent
from regraft.training.stages import Listener

LogTo = Mapping[str, str | Path | None] | Sequence[str] | str


class EventReader(ABC):
    """Take events to one place.

    Args:
        place: Where to, as it was given.
        out: Where the artifact will stand.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """Packages without which it cannot work."""
    extra: ClassVar[str] = ""
    """The group of optional dependencies that brings them."""

    def __init__(self, place: str, out: Path) -> None:
        self.place, self.out = place, out

    @classmethod
    @abstractmethod
    def usual(cls, out: Path) -> str:
        """Return the place where none is named, beside that of the artifact."""

    def open(self) -> None:  # noqa: B027 - most have nothing to open
        """Begin; called before any event."""

    @abstractmethod
    def __call__(self, event: Event) -> None:
        """Take one event."""

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Write out what waits; called once, after the last event, also after an error."""


class Following:
    """Pass events on to whoever listens and to readers; a context manager that opens and closes these.

    Args:
        log_to: Readers by name, each with its place or None for the usual one; or a list of NAME or NAME=PLACE.
        out: Where the artifact will stand.
        listen: Who listens beside them.

    Raises:
        OptionsError: A reader is named twice or not known; all problems at once.
        MissingExtraError: What a reader needs is not installed; names the extra.
    """

    def __init__(self, log_to: LogTo, out: str | Path, listen: Listener) -> None:
        self.listen = listen
        self._readers = _readers(_wanted(log_to), Path(out))
        self._early: list[Event] | None = []  # what was told before the readers are open

    def __enter__(self) -> Self:
        for name, reader in list(self._readers.items()):
            try:
                reader.open()
            except Exception:
                self._readers.pop(name)
                self.__exit__()
                raise
        early, self._early = self._early or [], None
        for event in early:
            self._read(event)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._readers):
            self._with(name, None)
        self._readers.clear()

    def __call__(self, event: Event) -> None:
        """Take one event."""
        self.listen(event)
        if self._early is None:
            self._read(event)
        else:
            self._early.append(event)

    def _read(self, event: Event) -> None:
        for name in list(self._readers):
            self._with(name, event)

    def _with(self, name: str, event: Event | None) -> None:
        reader = self._readers[name]
        try:
            reader.close() if event is None else reader(event)
        except Exception as error:  # noqa: BLE001 - a reader, of whatever package, may fail in any way
            self._readers.pop(name)
            step, seconds = (event.step, event.seconds) if event else (0, 0.0)
            text = f"events are no longer written to {name} ({reader.place}): {type(error).__name__}: {error}"
            self.listen(NoteEvent(step=step, seconds=seconds, text=text, level="warning"))


def numbers_of(event: Event) -> dict[str, float]:
    """Return the numbers of an event by the names that they have in every place; nothing of events without numbers.

    Example:
        >>> numbers_of(ValidEvent(step=5, seconds=1.0, metrics={"accuracy": 0.9}))
        {'valid/accuracy': 0.9}
    """
    if isinstance(event, StepEvent):
        own = {"loss": event.loss, "learning_rate": event.learning_rate, "gradient_norm": event.gradient_norm}
        return {f"train/{name}": float(value) for name, value in {**own, "epoch": event.epoch, **event.logs}.items()}
    if isinstance(event, ValidEvent):
        return {f"valid/{name}": float(value) for name, value in event.metrics.items()}
    return {}


def _wanted(log_to: LogTo) -> list[tuple[str, str | None]]:
    if isinstance(log_to, Mapping):
        return [(name, None if place is None else str(place)) for name, place in log_to.items()]
    found = []
    for one in [log_to] if isinstance(log_to, str) else log_to:
        name, sign, place = one.partition("=")
        found.append((name.strip(), place.strip() if sign and place.strip() else None))
    return found


def _readers(wanted: Sequence[tuple[str, str | None]], out: Path) -> dict[str, EventReader]:
    problems = []
    for number, (name, _) in enumerate(wanted):
        if name not in EVENT_READERS:
            try:
                EVENT_READERS.target(name)
            except UnknownNameError as error:
                problems += [Problem(what=one.what, where="--log-to", fix=one.fix) for one in error.problems]
        elif name in [other for other, _ in wanted[:number]]:
            what = f"events are to be written to {name} twice"
            problems.append(Problem(what=what, where="--log-to", fix="name one place"))
    if problems:
        raise OptionsError(problems)
    found = {}
    for name, place in wanted:
        reader = EVENT_READERS.get(name)
        if reader.needs:
            require(*reader.needs, needed_by=f"--log-to {name}", extra=reader.extra)
        found[name] = reader(reader.usual(out) if place is None else place, out)
    return found
