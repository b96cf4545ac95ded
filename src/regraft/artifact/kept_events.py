"""The events of a training as an artifact keeps them: of very many updates, evenly spaced ones.

Of more than `MOST_STEPS` updates every second one is left out, of more than twice as many every second of the rest, and so on;
the last one stays. The first line of such a file says so: {"event": "thinned", "steps": 81234, "kept_every": 32}. Everything
else (beginning, validations, notes, end) is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from regraft.options import JSON

MOST_STEPS = 5_000
_STEP = "step"


def thinned(path: Path) -> bytes:
    """Return what an artifact keeps of a file of events.

    Args:
        path: As `regraft.training.event_log` writes it.
    """
    with path.open("rb") as file:
        updates = sum(_is_step(line) for line in file)
    every = kept_every(updates)
    with path.open("rb") as file:
        if every == 1:
            return file.read()
        head = json.dumps({"event": "thinned", "steps": updates, "kept_every": every}) + "\n"
        return b"".join([head.encode(), *_kept(file, every)])


def kept_every(updates: int) -> int:
    """Return k, where every k-th update is kept of so many.

    Example:
        >>> kept_every(5_000), kept_every(5_001), kept_every(1_000_000)
        (1, 2, 256)
    """
    every = 1
    while updates // every > MOST_STEPS:
        every *= 2
    return every


def lines_of(path: Path) -> list[dict[str, JSON]]:
    """Return the lines of a kept file as JSON objects, but that which says how updates were thinned."""
    lines = (json.loads(line) for line in path.read_bytes().splitlines() if line.strip())
    return [line for line in lines if isinstance(line, dict) and line.get("event") != "thinned"]


def steps_of(lines: Sequence[dict[str, JSON]]) -> list[dict[str, JSON]]:
    """Return the updates among events."""
    return [line for line in lines if line.get("event") == _STEP]


def _kept(lines: Iterator[bytes], every: int) -> Iterator[bytes]:
    waiting, number = b"", 0
    for line in lines:
        if _is_step(line):
            number += 1
            waiting = b"" if number % every == 0 else line
            if number % every == 0:
                yield line
        else:
            if waiting and b'"event": "end"' in line:
                yield waiting
                waiting = b""
            yield line


def _is_step(line: bytes) -> bool:
    return line.startswith(b'{"event": "step"')
