"""The worst rows as they are kept: which ones, in which form, within which room; and the same whether seen at once or in passing."""

from __future__ import annotations

import base64
import io
import json
import wave
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.evaluation.answers import Answers
from regraft.options import build
from regraft.rendering import RENDERERS
from regraft.rendering.fused import FusedRenderer
from regraft.reporting import worst as module
from regraft.reporting.worst import ROOM_BYTES, WORST_ROWS, Gathering, worst
from regraft.tasks import TASKS
from regraft.types import Ledger

ROOM = ROOM_BYTES // WORST_ROWS
TEXTS = SimpleNamespace(name="text")


def pieces(modality: str, raw: Any, room: int = ROOM) -> list[dict[str, Any]]:
    found = RENDERERS.get(modality)().pieces(raw, room)
    assert json.loads(json.dumps(found, allow_nan=False)) == found, "it is kept as JSON"
    return found


def content(address: str, kind: str) -> bytes:
    head, _, body = address.partition(",")
    assert head == f"data:{kind};base64"
    return base64.b64decode(body)


def test_a_text_is_its_beginning_and_says_how_much_is_left_out():
    assert pieces("text", "word " * 300) == [{"text": ("word " * 80), "left_out": 1499 - 400}]
    assert pieces("text", "short") == [{"text": "short", "left_out": 0}]


def test_a_coarse_picture_keeps_its_pixels_and_a_large_one_its_room():
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (28, 20, 3), dtype=np.uint8))
    (found,) = pieces("image", small)
    assert (found["width"], found["height"]) == (20, 28)
    with Image.open(io.BytesIO(content(found["picture"], "image/png"))) as kept:
        np.testing.assert_array_equal(np.asarray(kept.convert("RGB")), np.asarray(small))
    large = Image.fromarray(rng.integers(0, 255, (700, 900, 3), dtype=np.uint8))  # noise: nothing compresses it
    (found,) = pieces("image", large)
    assert max(found["width"], found["height"]) == 160
    assert len(found["picture"]) <= ROOM
    (tight,) = pieces("image", large.crop((0, 0, 96, 96)), 5_000)
    assert len(tight["picture"]) <= 5_000
    assert (tight["width"], tight["height"]) == (20, 20)


def test_a_sound_is_its_beginning_at_a_rate_that_fits():
    rate, seconds = 44_100, 6.0
    tone = np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate).astype(np.float32)
    sound, lines = pieces("audio", (tone, rate))
    assert len(sound["sound"]) <= ROOM + 100
    assert sound["of"] == 6.0
    with wave.open(io.BytesIO(content(sound["sound"], "audio/wav"))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8_000, 1, 2)
        assert file.getnframes() / 8_000 == pytest.approx(sound["seconds"], abs=0.01)
        heard = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    assert 1.0 < sound["seconds"] < 2.0
    spectrum = np.abs(np.fft.rfft(heard))
    assert spectrum.argmax() * 8_000 / len(heard) == pytest.approx(440, abs=2)
    assert len(lines["lines"][0]) <= 160


def test_a_series_is_means_of_parts_with_its_gaps():
    steps = np.arange(1000, dtype=float)
    steps[500:505] = np.nan
    (found,) = pieces("series", np.stack([steps, 2 * steps], axis=1))
    assert (found["channels"], found["steps"]) == (2, 1000)
    first = found["lines"][0]
    assert len(first) == 200
    assert (first[0], first[100], first[199]) == (2.0, None, 997.0)
    assert pieces("series", [1.0, None, 3.0])[0]["lines"] == [[1.0, None, 3.0]]


def test_a_row_of_a_table_is_its_first_columns():
    (found,) = pieces("table", {f"column {k}": k if k else None for k in range(40)})
    assert len(found["cells"]) == 24
    assert found["left_out"] == 16
    assert found["cells"][:2] == [["column 0", "–"], ["column 1", "1"]]


def test_parts_of_a_row_share_its_room():
    part = SimpleNamespace(name="body", raw=lambda raw: raw["body"], modality=None)
    gone = SimpleNamespace(name="photo", raw=lambda raw: None, modality=None)
    renderer = FusedRenderer([(part, RENDERERS.get("text")()), (gone, RENDERERS.get("image")())])
    found = renderer.pieces({"body": "w" * 900}, 800)
    assert found == [{"named": "body", "pieces": [{"text": "w" * 100, "left_out": 800}]}, {"named": "photo", "pieces": []}]


def answers_of(name: str, n: int = 200) -> Answers:
    cls = TASKS.get(name)
    _, values = cls.example(n, 0)
    task = cls(build(cls.Options, cls.example_options))
    task.learn(values, Ledger())
    outputs = np.random.default_rng(1).normal(size=(n, task.widths[0])).astype(np.float32)
    return Answers(task, task.targets(values), task.probabilities(outputs))


@pytest.mark.parametrize("name", ["classification", "ordinal", "multi-label", "regression"])
def test_rows_seen_in_passing_are_those_seen_at_once(name: str):
    answers = answers_of(name)
    raws, places = [f"text {k}" for k in range(200)], [f"mails.csv, row {k + 1}" for k in range(200)]
    at_once = worst(answers, TEXTS, lambda rows: [raws[row] for row in rows], lambda row: places[row])
    gathering = Gathering(answers.task)
    for first in range(0, 200, 33):
        part = slice(first, first + 33)
        gathering(answers.targets_N[part], answers.outputs_NC[part], raws[part], places[part])
    assert gathering.found(answers, TEXTS) == at_once
    assert len(at_once["rows"]) == 50
    costs = [row["cost"] for row in at_once["rows"]]
    assert costs == sorted(costs, reverse=True)
    assert all(row["pieces"] == [{"text": f"text {row['row']}", "left_out": 0}] for row in at_once["rows"])


def test_what_is_said_of_a_row_is_what_was_answered():
    answers = answers_of("classification")
    found = worst(answers, TEXTS, lambda rows: ["x"] * len(rows), str)
    wrong = answers.outputs_NC.argmax(axis=1) != answers.targets_N
    assert (found["wrong"], found["judged"], found["most"]) == (int(wrong.sum()), 200, 50)
    first, labels = found["rows"][0], answers.task.names
    row = first["row"]
    assert first["truth"] == labels[answers.targets_N[row]]
    assert first["answer"] == labels[answers.outputs_NC[row].argmax()]
    assert first["confidence"] == answers.outputs_NC[row].max()
    assert first["cost"] == pytest.approx(-np.log(answers.outputs_NC[row, answers.targets_N[row]]))


def test_a_row_that_cannot_be_shown_stops_nothing(monkeypatch: pytest.MonkeyPatch):
    def broken(raw: Any, room: int) -> Any:
        raise RuntimeError("no way to show it")

    monkeypatch.setattr(module, "_renderer", lambda modality: SimpleNamespace(pieces=broken))
    found = worst(answers_of("classification"), TEXTS, lambda rows: ["x"] * len(rows), str)
    assert found["rows"][0]["pieces"][0]["text"] == "this row cannot be shown: no way to show it"
    monkeypatch.setattr(module, "_renderer", lambda modality: None)
    found = worst(answers_of("classification"), TEXTS, lambda rows: ["x"] * len(rows), str)
    assert found["rows"][0]["pieces"] == [{"text": "x", "left_out": 0}]


def test_where_how_wrong_a_row_is_depends_on_others_nothing_is_gathered():
    answers = answers_of("multi-target")
    gathering = Gathering(answers.task)
    gathering(answers.targets_N, answers.outputs_NC, ["x"] * 200, ["y"] * 200)
    assert gathering.found(answers, TEXTS) == {}
    (first, *_) = worst(answers, TEXTS, lambda rows: ["x"] * len(rows), str)["rows"]
    assert set(first["truth"]) == set(first["answer"]) == {part.name for part in answers.task.parts}
