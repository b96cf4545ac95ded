"""Gradual tuning from rows to an artifact, and over an interruption in either phase."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import regraft
from regraft.errors import InterruptedRunError
from regraft.training.event_log import EVENTS, read
from regraft.training.events import BeginEvent, EndEvent, NoteEvent, StepEvent

HOW = {"tuning": {"name": "gradual", "head_epochs": 2, "layers": [1]}, "train": {"epochs": 1, "batch_size": 32}}


@pytest.fixture(scope="module")
def whole(fit_small, tmp_path_factory):
    events = []
    found = fit_small(tmp_path_factory.mktemp("gradual") / "model", listen=events.append, **HOW)
    return found, events


def test_the_phases_follow_each_other(whole):
    found, events = whole
    begun = [event for event in events if isinstance(event, BeginEvent)]
    rows, weights = begun[0].rows, begun[0].parameters
    each = -(-rows // 32)
    assert [event.total_steps for event in begun] == [2 * each, 3 * each, 4 * each]
    assert begun[0].trainable < begun[1].trainable < begun[2].trainable <= weights
    steps = [event.step for event in events if isinstance(event, StepEvent)]
    assert steps == list(range(1, 4 * each + 1))
    assert [event.step for event in read(found.path / EVENTS) if isinstance(event, StepEvent)] == steps
    notes = [event.text for event in events if isinstance(event, NoteEvent) and event.text.startswith("phase")]
    assert notes == ["phase 1 of 3: head, 2 epochs", "phase 2 of 3: top 1, 1 epochs", "phase 3 of 3: full, 1 epochs"]
    assert [event.best_step > 0 for event in events if isinstance(event, EndEvent)] == [True] * 3
    assert found.report.cost["rows_per_s"] > 0


@pytest.mark.parametrize("where", ["head", "between", "last", "begin of the last"])
def test_an_interruption_changes_nothing(fit_small, whole, tmp_path: Path, where):
    found, events = whole
    each = max(event.step for event in events if isinstance(event, StepEvent)) // 4
    at = {"head": 2, "between": 2 * each + 1, "last": 3 * each + 2, "begin of the last": 3 * each}[where]

    def listen(event):
        if isinstance(event, StepEvent) and event.step == at:
            signal.raise_signal(signal.SIGTERM)

    out = tmp_path / "model"
    with pytest.raises(InterruptedRunError, match=f"after step {at}"):
        fit_small(out, listen=listen, **HOW)
    notes = []
    again = regraft.fit(resume=out, listen=lambda event: notes.append(getattr(event, "text", "")))
    assert again.weights_digest == found.weights_digest
    assert any(note.startswith(f"going on after step {at}, ") for note in notes)
    steps = [event.step for event in read(again.path / EVENTS) if isinstance(event, StepEvent)]
    assert steps == list(range(1, 4 * each + 1))
