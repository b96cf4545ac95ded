"""Events of a training in a file, whatever the disk does."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import pytest
from tiny_net import tiny_judge, tiny_net, tiny_objective

from regraft.errors import ArtifactError
from regraft.options import build
from regraft.training.event_log import EVENTS, EventLog, event_of, line_of, read
from regraft.training.events import BeginEvent, EndEvent, NoteEvent, StageEvent, StepEvent, ValidEvent
from regraft.training.loop import Validation, train
from regraft.training.options import TrainOptions
from regraft.tuning.full import Full, FullOptions


def step(number: int, loss: float = 0.5) -> StepEvent:
    return StepEvent(
        step=number,
        seconds=0.1 * number,
        epoch=number / 4,
        loss=loss,
        learning_rate=1e-4 / 3,
        gradient_norm=1.5,
        rows=8,
        positions=40,
        padded_positions=64,
        logs={"a": 0.1},
    )


def test_all_that_a_training_says_comes_back(tmp_path: Path):
    log, said = EventLog(tmp_path / EVENTS), []
    net, objective = tiny_net(), tiny_objective()
    judge = Validation(run=tiny_judge(net, objective), metric="accuracy", higher_is_better=True)
    options = build(TrainOptions, {"epochs": 2, "batch_size": 8, "dropout": 0.0})
    for event in train(net, objective, Full(FullOptions()), options, validation=judge):
        said.append(event)
        log(event)
    said.append(NoteEvent(step=8, seconds=1.0, text="wörter", level="warning"))
    log(said[-1])
    assert {type(event) for event in said} == {BeginEvent, StepEvent, ValidEvent, EndEvent, NoteEvent}
    assert list(read(log.path)) == said
    assert log.position == log.path.stat().st_size


def test_whoever_goes_on_has_no_step_twice(tmp_path: Path):
    log = EventLog(tmp_path / EVENTS)
    log.truncate(0)
    for number in range(5):
        log(step(number))
    place = log.position
    for number in range(5, 9):
        log(step(number))
    again = EventLog(log.path)  # in another process
    again.truncate(place)
    for number in range(5, 12):
        again(step(number))
    assert [event.step for event in read(log.path)] == list(range(12))
    again.truncate(10**9)
    assert [event.step for event in read(log.path)] == list(range(12))


@pytest.mark.parametrize("lost", [1, 30])
def test_after_a_power_cut_what_is_left_of_a_line_is_not_one(tmp_path: Path, lost: int):
    log = EventLog(tmp_path / EVENTS)
    for number in range(5):
        log(step(number))
    place = log.position
    os.truncate(log.path, place - lost)
    assert [event.step for event in read(log.path)] == [0, 1, 2, 3]
    again = EventLog(log.path)
    again.truncate(place)
    again(step(5))
    assert [event.step for event in read(log.path)] == [0, 1, 2, 3, 5]


def test_a_disk_that_is_full_for_a_while_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = EventLog(tmp_path / EVENTS)
    log(step(0))
    honest, full = Path.open, True

    def opened(self, *args, **kwargs):
        file = honest(self, *args, **kwargs)
        if not full or self != log.path:
            return file

        class Half:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def __getattr__(self, name):
                return getattr(file, name)

            def write(self, content):
                file.write(content[: len(content) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return Half()

    monkeypatch.setattr(Path, "open", opened)
    for number in range(1, 250):
        log(step(number))
    before = log.position
    assert log.failure == os.strerror(errno.ENOSPC)
    assert before == log.path.stat().st_size == len(line_of(step(0))), "no half of a line stays"
    full = False
    log(step(250))
    assert log.position == log.path.stat().st_size > before
    assert log.failure == ""
    assert [event.step for event in read(log.path)] == list(range(251))


def test_a_folder_that_is_gone_is_no_error(tmp_path: Path):
    log = EventLog(tmp_path / "gone" / EVENTS)
    log.truncate(0)
    log(step(1))
    assert (log.position, log.failure) == (0, os.strerror(errno.ENOENT))


def test_numbers_that_are_none_are_null(tmp_path: Path):
    line = line_of(step(1, loss=math.inf))
    assert json.loads(line)["loss"] is None
    assert math.isnan(event_of(json.loads(line)).loss)
    assert math.isnan(event_of(json.loads(line_of(ValidEvent(step=1, seconds=0.0, metrics={"f1": math.nan})))).metrics["f1"])


def test_what_is_not_known_is_left_out_and_what_is_no_event_is_refused(tmp_path: Path):
    path = tmp_path / EVENTS
    newer = {**json.loads(line_of(step(2))), "new": 1}
    lines = [line_of(step(1)), line_of(StageEvent(step=0, seconds=0.0, stage="read")), json.dumps(newer).encode() + b"\n"]
    path.write_bytes(b"".join(lines))
    assert list(read(path)) == [step(1), step(2)]
    for wrong, said in ((b"{\n", "Expecting"), (b"[]\n", "list"), (b'{"event": "end", "step": 1}\n', "missing")):
        path.write_bytes(line_of(step(1)) + wrong)
        with pytest.raises(ArtifactError, match=f"not an event of a training(.|\n)*line 2(.|\n)*{said}"):
            list(read(path))
