"""Readers of events: each held against the reader of its own format; what fails is left out, what is wrong is refused before work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from regraft.artifact.run import folder_of
from regraft.errors import MissingExtraError, OptionsError
from regraft.reporting import EVENT_READERS
from regraft.reporting.event_reader import EventReader, Following
from regraft.reporting.readers.curves import CurvesReader
from regraft.training.event_log import EVENTS, EventLog, read
from regraft.training.events import BeginEvent, EndEvent, Event, NoteEvent, StageEvent, StepEvent, ValidEvent

SHAPE = {"rows": 8, "positions": 80, "padded_positions": 96}


def step(number: int) -> StepEvent:
    return StepEvent(
        step=number,
        seconds=number / 10,
        epoch=number / 9,
        loss=1 / number,
        learning_rate=1e-3 / number,
        gradient_norm=2.0 * number,
        logs={"pull": 0.5},
        **SHAPE,
    )


def training(last: int, first: int = 0) -> list[Event]:
    begin = BeginEvent(step=first, seconds=0.0, total_steps=last, rows=8, parameters=10, trainable=5)
    valid = ValidEvent(step=last, seconds=9.0, metrics={"accuracy": 0.75, "log-loss": 0.5}, best=True)
    end = EndEvent(step=last, seconds=9.1, reason="done", best_step=last)
    return [begin, *map(step, range(first + 1, last + 1)), valid, end]


def follow(log_to: Any, out: Path, events: list[Event]) -> list[Event]:
    heard: list[Event] = []
    with Following(log_to, out, heard.append) as following:
        for event in events:
            following(event)
    return heard


def test_json_lines_are_the_events(tmp_path: Path):
    events = [StageEvent(step=0, seconds=0.0, stage="train", total=5), *training(5)]
    assert follow("json-lines", tmp_path / "model", events) == events
    assert [*read(tmp_path / "model.events.jsonl")] == events[1:], "the stage stands there too, and is no event of training"
    assert json.loads((tmp_path / "model.events.jsonl").read_text().splitlines()[0])["stage"] == "train"
    follow({"json-lines": tmp_path / "deep" / "own.jsonl"}, tmp_path / "model", events)
    assert (tmp_path / "deep" / "own.jsonl").read_bytes() == (tmp_path / "model.events.jsonl").read_bytes()


def test_curves_are_a_picture_and_a_drawing_of_every_number(tmp_path: Path):
    follow(["curves"], tmp_path / "model", training(20))
    with Image.open(tmp_path / "model.curves.png") as picture:
        assert picture.size[0] > 900
    root = ElementTree.parse(tmp_path / "model.curves.svg").getroot()
    told = {"".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"loss", "learning rate", "gradient norm", "accuracy, validation rows", "log-loss, validation rows"} <= told


def test_curves_are_drawn_while_it_runs_and_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr("regraft.reporting.readers.curves.time.monotonic", lambda: now[0])
    reader = CurvesReader(str(tmp_path / "c.svg"), tmp_path / "model")
    drawn: list[float] = []
    monkeypatch.setattr(reader, "_draw", lambda: drawn.append(now[0]) or setattr(reader, "_due", now[0] + 5.0))
    for event in training(40):
        reader(event)
        now[0] += 1.0
    assert drawn == [101.0, 106.0, 111.0, 116.0, 121.0, 126.0, 131.0, 136.0, 141.0]


def test_curves_of_very_many_updates_are_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("regraft.reporting.readers.curves._POINTS", 50)
    reader = CurvesReader(str(tmp_path / "c"), tmp_path / "model")
    monkeypatch.setattr(reader, "_draw", lambda: None)
    for event in training(333):
        reader(event)
    steps = [at for at, _ in reader._curves["train/loss"]]
    assert steps == list(range(8, 333, 8))
    assert reader._curves["valid/accuracy"] == [(333, 0.75)]


def test_curves_of_a_fit_that_goes_on_have_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder_of(tmp_path / "model").mkdir()
    log = EventLog(folder_of(tmp_path / "model") / EVENTS)
    for event in training(10):
        log(event)
    reader = CurvesReader(str(tmp_path / "c"), tmp_path / "model")
    monkeypatch.setattr(reader, "_draw", lambda: None)
    for event in training(20, first=8):
        reader(event)
    assert [at for at, _ in reader._curves["train/loss"]] == list(range(1, 21))


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_what_was_written(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    follow({"tensorboard": tmp_path / "runs"}, tmp_path / "model", training(12))
    found = EventAccumulator(str(tmp_path / "runs"), size_guidance={"scalars": 0})
    found.Reload()
    assert set(found.Tags()["scalars"]) == {
        *(f"train/{name}" for name in ("loss", "learning_rate", "gradient_norm", "epoch", "pull")),
        *(f"valid/{name}" for name in ("accuracy", "log-loss")),
    }
    losses = found.Scalars("train/loss")
    assert [one.step for one in losses] == list(range(1, 13))
    assert [one.value for one in losses] == pytest.approx([1 / number for number in range(1, 13)], rel=1e-6)
    assert [(one.step, one.value) for one in found.Scalars("valid/accuracy")] == [(12, 0.75)]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_reads_what_was_written(tmp_path: Path):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow import MlflowClient

    follow("mlflow", tmp_path / "model", training(12))
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'model.mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("regraft").experiment_id])
    assert (run.info.run_name, run.info.status) == ("model", "FINISHED")
    assert run.data.params["total_steps"] == "12"
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((one.step, one.value) for one in losses) == [(number, 1 / number) for number in range(1, 13)]


def test_events_before_the_readers_are_open_are_not_lost(tmp_path: Path):
    following = Following("json-lines", tmp_path / "model", lambda event: None)
    for event in training(3)[:2]:
        following(event)
    with following:
        for event in training(3)[2:]:
            following(event)
    assert [*read(tmp_path / "model.events.jsonl")] == training(3)


class Broken(EventReader):
    """A reader of an outside package that fails at the third update."""

    @classmethod
    def usual(cls, out: Path) -> str:
        return "nowhere"

    def __call__(self, event: Event) -> None:
        if event.step == 3:
            raise ConnectionError("the server is gone")


def test_a_reader_that_fails_is_left_out_and_the_others_go_on(tmp_path: Path):
    EVENT_READERS.add("broken", f"{__name__}:Broken")
    try:
        heard = follow(["broken", "json-lines"], tmp_path / "model", training(6))
    finally:
        EVENT_READERS.discard("broken")
    warnings = [event.text for event in heard if isinstance(event, NoteEvent)]
    assert warnings == ["events are no longer written to broken (nowhere): ConnectionError: the server is gone"]
    assert [event for event in heard if not isinstance(event, NoteEvent)] == training(6)
    assert [*read(tmp_path / "model.events.jsonl")] == training(6)


def test_what_is_not_known_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(OptionsError) as refused:
        Following(["tensorbord=x", "curves", "curves=y"], tmp_path / "model", lambda event: None)
    assert [problem.where for problem in refused.value.problems] == ["--log-to", "--log-to"]
    assert "did you mean 'tensorboard'" in str(refused.value)
    assert "events are to be written to curves twice" in str(refused.value)
    monkeypatch.setattr("regraft.registry.installed", lambda package: package != "tensorboard")
    with pytest.raises(MissingExtraError, match=r"--log-to tensorboard needs the package 'tensorboard'") as missing:
        Following("tensorboard", tmp_path / "model", lambda event: None)
    assert "regraft[tensorboard]" in str(missing.value)
