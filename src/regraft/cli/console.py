"""What people and programs see while a verb runs: a progress bar, plain lines, or JSON lines."""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from regraft.training.events import (
    BeginEvent,
    EndEvent,
    Event,
    NoteEvent,
    ProgressEvent,
    StageEvent,
    StepEvent,
    ValidEvent,
)

_LINE_EVERY_S = 5.0


_LOG_WIDTH = 120


def people() -> Console:
    """Return the console for people: standard error, so that standard output stays for results."""
    return Console(file=sys.stderr, highlight=False, width=None if sys.stderr.isatty() else _LOG_WIDTH)


def results() -> Console:
    """Return the console for results that people read: standard output."""
    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else _LOG_WIDTH)


class Watcher(ABC):
    """Follow the events of one verb; a context manager that leaves the terminal clean."""

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def __call__(self, event: Event) -> None:
        """Take one event."""

    def close(self) -> None:  # noqa: B027 - most watchers have nothing to close
        """Stop drawing."""


def watcher(json_lines: bool) -> Watcher:
    """Return how events are shown here: JSON lines if asked for, a bar on a terminal, plain lines elsewhere."""
    if json_lines:
        return JsonLines(sys.stdout)
    return Bar(people()) if sys.stderr.isatty() else Lines(people())


class JsonLines(Watcher):
    """Write every event as one JSON object a line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        """Take one event."""
        self._stream.write(json.dumps(event.to_json()) + "\n")
        self._stream.flush()


class Lines(Watcher):
    """Write a line now and then, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = 0.0
        self._rate = Rate()
        self._total = 0
        self._stage_total: int | None = None
        self._stage = ""

    def __call__(self, event: Event) -> None:
        """Take one event."""
        if isinstance(event, StepEvent):
            self._rate.add(event.rows)
        text = self._text(event)
        if text:
            self._console.print(text, markup=False, soft_wrap=True)
            self._last = time.monotonic()

    def _text(self, event: Event) -> str:
        due = time.monotonic() - self._last > _LINE_EVERY_S
        if isinstance(event, NoteEvent):
            return f"  {'warning: ' if event.level == 'warning' else ''}{event.text}"
        if isinstance(event, StageEvent):
            self._stage, self._stage_total = event.stage, event.total
            return f"[{event.seconds:6.1f} s] {event.stage}"
        if isinstance(event, BeginEvent):
            self._total = event.total_steps
            return "\n".join(begin_lines(event))
        if isinstance(event, StepEvent) and (due or event.step == self._total):
            left = (self._total - event.step) * event.seconds / max(event.step, 1)
            return (
                f"  step {event.step}/{self._total}  loss {event.loss:.4f}  rate {event.learning_rate:.2e}"
                f"  {self._rate.value:,.0f} rows/s  {left:,.0f} s left"
            )
        if isinstance(event, ValidEvent):
            numbers = "  ".join(f"{name} {value:.4f}" for name, value in event.metrics.items())
            return f"  step {event.step}  validation: {numbers}{'  (best so far)' if event.best else ''}"
        if isinstance(event, EndEvent):
            return f"  {event.reason}; the weights of step {event.best_step} are kept"
        if isinstance(event, ProgressEvent) and due:
            of = f" of {self._stage_total:,}" if self._stage_total else ""
            return f"  {event.done:,}{of} rows"
        return ""


def begin_lines(event: BeginEvent) -> list[str]:
    """Return what is about to learn, as people read it: the whole in one line, and a table by part.

    Args:
        event: Training is about to start.
    """
    share = event.trainable / max(event.parameters, 1)
    whole = f"  {event.total_steps:,} steps, {event.trainable:,} of {event.parameters:,} weights learn ({share:.1%})"
    if not event.parts:
        return [whole]
    width = max(len(name) for name in event.parts)
    lines = [f"    {'part':<{width}}  {'weights':>13}  {'learn':>13}  {'share':>7}  {'in training':>12}"]
    for name, part in event.parts.items():
        size, share = f"{part.size_bytes / 1e6:,.1f} MB", part.trainable / max(part.weights, 1)
        lines.append(f"    {name:<{width}}  {part.weights:>13,}  {part.trainable:>13,}  {share:>7.1%}  {size:>12}")
    return [whole, *lines]


class Bar(Watcher):
    """Draw one progress bar for the current stage, with loss, metric, rows a second and the time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._rate = Rate()
        self._metric = ""
        self._progress.start()

    def __call__(self, event: Event) -> None:
        """Take one event."""
        if isinstance(event, NoteEvent):
            style = "yellow" if event.level == "warning" else "dim"
            self._console.print(f"  {event.text}", style=style, markup=False)
        elif isinstance(event, StageEvent):
            self._start(event.stage, event.total)
        elif isinstance(event, BeginEvent):
            for line in begin_lines(event):
                self._console.print(line, style="dim", markup=False)
            self._start("train", event.total_steps)
        elif isinstance(event, StepEvent):
            self._rate.add(event.rows)
            self._update(event.step, f"loss {event.loss:.4f} {self._metric} {self._rate.value:,.0f} rows/s")
        elif isinstance(event, ValidEvent):
            name, value = next(iter(event.metrics.items()), ("", 0.0))
            self._metric = f"{name} {value:.4f}"
            if event.best:
                self._console.print(f"  step {event.step}: {self._metric} (best so far)", style="dim", markup=False)
        elif isinstance(event, ProgressEvent):
            self._update(event.done, f"{event.done:,} rows")

    def close(self) -> None:
        """Remove the bar and give the terminal back."""
        self._progress.stop()

    def _start(self, description: str, total: int | None) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(description, total=total, numbers="")

    def _update(self, done: int, numbers: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done, numbers=numbers)


class Rate:
    """Rows a second over the last few seconds."""

    def __init__(self, window_s: float = 10.0) -> None:
        self._window_s = window_s
        self._marks: list[tuple[float, int]] = [(time.monotonic(), 0)]

    def add(self, rows: int) -> None:
        """Count rows that are done now."""
        now = time.monotonic()
        self._marks.append((now, rows))
        while len(self._marks) > 2 and now - self._marks[0][0] > self._window_s:
            self._marks.pop(0)

    @property
    def value(self) -> float:
        """The rate."""
        span = self._marks[-1][0] - self._marks[0][0]
        return sum(rows for _, rows in self._marks[1:]) / span if span > 0 else 0.0
