"""What an artifact keeps of the events of a training: all of few updates, evenly spaced ones and the last of many."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from regraft.artifact import kept_events
from regraft.training.event_log import EventLog, read
from regraft.training.events import BeginEvent, EndEvent, StepEvent, ValidEvent


def file_of(folder: Path, updates: int) -> Path:
    log = EventLog(folder / "events.jsonl")
    log(BeginEvent(step=0, seconds=0.0, total_steps=updates, rows=8, parameters=10, trainable=5))
    shape = {"learning_rate": 1e-3, "gradient_norm": 2.0, "rows": 8, "positions": 8, "padded_positions": 8}
    for step in range(1, updates + 1):
        log(StepEvent(step=step, seconds=step / 10, epoch=step / 9, loss=1 / step, **shape))
        if step % 10 == 0:
            log(ValidEvent(step=step, seconds=step / 10, metrics={"accuracy": 0.5}, best=step == 10))
    log(EndEvent(step=updates, seconds=9.0, reason="done", best_step=10))
    return folder / "events.jsonl"


def test_few_updates_are_kept_as_they_are(tmp_path: Path):
    path = file_of(tmp_path, 40)
    assert kept_events.thinned(path) == path.read_bytes()


def test_many_are_thinned_evenly_with_the_last_and_everything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kept_events, "MOST_STEPS", 10)
    path = file_of(tmp_path, 43)
    (tmp_path / "kept").write_bytes(kept_events.thinned(path))
    assert json.loads((tmp_path / "kept").read_text().splitlines()[0]) == {"event": "thinned", "steps": 43, "kept_every": 4}
    lines = kept_events.lines_of(tmp_path / "kept")
    assert [line["step"] for line in kept_events.steps_of(lines)] == [*range(4, 41, 4), 43]
    assert [line["step"] for line in lines if line["event"] == "valid"] == [10, 20, 30, 40]
    assert [lines[0]["event"], lines[-1]["event"]] == ["begin", "end"]
    assert len([*read(tmp_path / "kept")]) == len(lines), "the reader of events passes over the line that tells of it"


def test_never_more_than_the_limit():
    assert all(updates // kept_events.kept_every(updates) <= 5_000 for updates in (0, 1, 5_001, 9_999, 123_456, 10**7))
