"""The whole line over series: a .ts file with gaps and several channels in, answers without torch out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import regraft
from regraft.models.scratch_series_networks import STYLES

HEAD = "@problemName toy\n@timeStamps false\n@missing true\n@univariate false\n@classLabel true up down\n@data\n"
DEFAULT = "gru"
OPTIONS = {
    "target": "label",
    "train": {"epochs": 12, "batch_size": 8, "learning_rate": 0.01, "head_learning_rate": 0.01},
    "judge": {"resamples": 200},
    "machine": {"threads": 1, "cache": {"disk_mb": 0}},
}
ANSWER = """
import json, sys
from regraft.serving.predictor import Predictor
rows = json.load(sys.stdin)
found = Predictor.load(sys.argv[1], runtime="onnxruntime").predict(rows)
assert not {"torch", "transformers", "pandas"} & set(sys.modules)
print(json.dumps([[p.value, p.error] for p in found]))
"""


def cases(rows: int, seed: int) -> list[tuple[np.ndarray, str]]:
    """Rows whose first channel goes up or down, of different lengths, some numbers missing, beside a channel of noise."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(rows):
        steps = int(rng.integers(8, 20))
        way = "up" if number % 2 else "down"
        line = np.linspace(-1, 1, steps) * (1 if way == "up" else -1)
        values = np.stack([line, rng.standard_normal(steps)]) + 0.1 * rng.standard_normal((2, steps))
        values[rng.random(values.shape) < 0.1] = np.nan
        made.append((values, way))
    return made


def write(path: Path, rows: list[tuple[np.ndarray, str]]) -> Path:
    def text(values: np.ndarray) -> str:
        return ",".join("?" if value != value else f"{value:.4f}" for value in values)

    path.write_text(HEAD + "".join(":".join([*map(text, values), label]) + "\n" for values, label in rows))
    return path


@pytest.mark.parametrize("style", [name if name == DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in STYLES])
def test_from_a_ts_file_to_answers_without_torch(style, tmp_path):
    train, test = write(tmp_path / "toy_TRAIN.ts", cases(60, 0)), write(tmp_path / "toy_TEST.ts", cases(40, 1))
    base = {"name": "series", "style": style, "width": 16, "heads": 2, "layers": 1, "patch": 4}
    artifact = regraft.fit(train, out=tmp_path / "m", test=test, base=base, **OPTIONS)
    report = regraft.evaluate(artifact, test)
    assert report.judgement.metrics["accuracy"].value > 0.8
    regraft.export(artifact, format="onnx", out=tmp_path / "onnx", rows=test)
    rows = [[[None if v != v else float(v) for v in step] for step in values.T] for values, _ in cases(20, 2)]
    here = [p.value for p in regraft.predict(artifact, rows)]
    sent = json.dumps([*rows, json.dumps(rows[0]), {"series": rows[0]}, [[None, None]], [1.0]])
    done = subprocess.run([sys.executable, "-c", ANSWER, str(tmp_path / "onnx")], input=sent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *there, missing, narrow = json.loads(done.stdout)
    assert [value for value, _ in there] == [*here, here[0], here[0]]
    assert missing[1] == "every value of the series is missing"
    assert narrow[1] == "a series of 2 channels is expected, got 1 channel"


def test_series_in_json_lines_are_read_as_those_in_memory(tmp_path):
    lines = [
        {"flow": [[None if v != v else float(v) for v in step] for step in values.T], "label": label}
        for values, label in cases(60, 0)
    ]
    file = tmp_path / "flows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in lines))
    options = {**OPTIONS, "train": {"epochs": 1}, "base": {"name": "series", "style": DEFAULT, "width": 8}}
    artifact = regraft.fit(file, out=tmp_path / "m", **options)
    assert artifact.manifest.inputs[0].column == "flow"
    answers = tmp_path / "answers.jsonl"
    regraft.lifecycle.predict_file(artifact, file, out=answers)
    found = [json.loads(line) for line in answers.read_text().splitlines()]
    here = [dict(one.probabilities) for one in regraft.predict(artifact, [row["flow"] for row in lines])]
    np.testing.assert_allclose([row["probability.up"] for row in found], [one["up"] for one in here], atol=1e-6)


def test_what_is_cut_off_is_counted_in_steps(tmp_path):
    train, test = write(tmp_path / "toy_TRAIN.ts", cases(20, 0)), write(tmp_path / "toy_TEST.ts", cases(10, 1))
    base, short = {"name": "series", "style": DEFAULT, "width": 8}, {"name": "series", "max_length": 12}
    options = {**OPTIONS, "train": {"epochs": 1}}
    artifact = regraft.fit(train, out=tmp_path / "m", test=test, base=base, modality=short, **options)
    counted = regraft.evaluate(artifact, test).ledger.to_json()["truncated steps"]
    cut = [max(0, values.shape[1] - 12) for values, _ in cases(10, 1)]
    assert counted == {"count": sum(cut), "examples": [f"toy_TEST.ts: {np.count_nonzero(cut)} of 10 rows"]}
    assert sum(cut) > 0
