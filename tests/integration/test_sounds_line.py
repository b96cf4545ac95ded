"""The straight line on recordings: fit, judge, predict, an export that answers without torch, and what is wrong with a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_core_without_torch import _BLOCKER, ABSENT

import regraft as rg
from regraft.errors import DataError
from regraft.modalities.recordings import wav_bytes

SMALL = {"base": {"name": "sound-conv", "width": 16, "layers": 1}, "judge": {"resamples": 100}, "modality": {"rate": 8000}}
THREADS = {"threads": 1, "device": "cpu", "cache": {"enabled": False}}
TRAIN = {"epochs": 8, "learning_rate": 1e-2}


def tone(kind: str, rng: np.random.Generator) -> np.ndarray:
    steps = np.arange(int(rng.integers(1500, 3000)))
    return 0.5 * np.sin(steps * (0.2 if kind == "low" else 0.9)) + 0.05 * rng.standard_normal(len(steps))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file that names recordings beside it."""
    folder, rng, lines = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0), ["clip,label"]
    for number in range(60):
        kind = ("low", "high")[number % 2]
        (folder / f"{number}.wav").write_bytes(wav_bytes(tone(kind, rng), 8000))
        lines.append(f"{number}.wav,{kind}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n")
    return folder / "clips.csv"


@pytest.fixture(scope="module")
def artifact(table: Path, tmp_path_factory: pytest.TempPathFactory) -> rg.Artifact:
    return rg.fit(table, target="label", out=tmp_path_factory.mktemp("fitted") / "model", train=TRAIN, machine=THREADS, **SMALL)


def test_fit_evaluate_predict(artifact: rg.Artifact, table: Path, tmp_path: Path):
    assert artifact.report.to_json()["metrics"]["accuracy"]["value"] == 1.0
    assert artifact.manifest.inputs[0].modality == "audio"
    assert len(list(artifact.path.rglob("preprocessor_config.json"))) == 1
    report = rg.evaluate(artifact, table, judge={"resamples": 100, "overlap": "keep"})
    assert (report.judgement.n, report.judgement.metrics["accuracy"].value) == (60, 1.0)
    rng = np.random.default_rng(9)
    low, high, path = rg.load(artifact).predict([(tone("low", rng), 8000), wav_bytes(tone("high", rng), 8000), "0.wav"])
    assert (low.value, high.value) == ("low", "high")
    assert "a path or an address is not opened here" in path.error, "a caller's path is never opened"


def test_bad_recordings_are_found_before_training_and_named(table: Path, tmp_path: Path):
    lines = table.read_text().splitlines()
    (table.parent / "empty.wav").write_bytes(wav_bytes(np.zeros(0), 8000))
    (table.parent / "text.wav").write_bytes(b"no recording")
    lines += ["empty.wav,low", "text.wav,low", "gone.wav,high", "../clips.csv.wav,high"]
    worse = table.with_name("worse.csv")
    worse.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as caught:
        rg.fit(worse, target="label", out=tmp_path / "model", machine=THREADS, **SMALL)
    said = str(caught.value)
    assert "4 of 64 rows (6.2%): 4 unreadable rows" in said
    assert "the recording has 0 seconds\n     where: worse.csv, row 61, column 'clip'" in said
    assert "the recording cannot be decoded: Format not recognised.\n     where: worse.csv, row 62, column 'clip'" in said
    assert "there is no file 'gone.wav'" in said


@pytest.mark.slow
def test_an_export_answers_where_torch_is_not(artifact: rg.Artifact, table: Path, tmp_path: Path):
    export = rg.export(artifact, format="onnx", out=tmp_path / "onnx", rows=table, machine={"threads": 1})
    (tmp_path / "sitecustomize.py").write_text(_BLOCKER)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    environment |= {"ABSENT_PACKAGES": ",".join(ABSENT), "REGRAFT_CACHE": str(tmp_path / "cache")}
    code = "import json, sys, pathlib, regraft; p = regraft.load(sys.argv[1], threads=1); "
    code += "print(json.dumps([dict(a.probabilities) for a in p.predict([pathlib.Path(sys.argv[2])])]))"
    recording = table.parent / "3.wav"
    command = [sys.executable, "-c", code, str(export.path), str(recording)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = rg.load(artifact, threads=1).predict([recording])[0].probabilities
    assert json.loads(done.stdout)[0] == pytest.approx(dict(expected), abs=1e-5)
