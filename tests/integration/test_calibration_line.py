"""Calibration, sets and abstaining from the fit to every door: the same in Python, files, HTTP, runtimes and exports."""

from __future__ import annotations

import csv
import json
import random
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from line_rows import SMALL, mails, write_csv
from scipy.special import softmax

import regraft as rg
from regraft.artifact.store import Artifact
from regraft.errors import OptionsError, UsageError
from regraft.lifecycle import predict, predict_file
from regraft.registry import installed
from regraft.serving.replay import replay_in_fresh_process
from regraft.serving.serve import BackgroundServer

ASKED: dict[str, Any] = {"coverage": 0.9, "min_confidence": 0.8}
BASE = {"name": "transformer", "width": 16, "heads": 2, "layers": 1, "positions": 64, "vocabulary_size": 300}
TRAIN = {**SMALL["train"], "epochs": 12, "validation": {"every": 10**6}}


def noisy(rows: int, seed: int) -> list[dict[str, str]]:
    """Mails of which one in six has the wrong label, so that nobody can be sure."""
    rng = random.Random(seed)
    made = mails(rows, seed)
    for row in made:
        if rng.random() < 1 / 6:
            row["label"] = {"ham": "spam", "spam": "ham"}[row["label"]]
        row["price"] = f"{len(row['body']) + rng.gauss(0, 5):.2f}"
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated")
    for name, rows, seed in (("train", 100, 1), ("valid", 200, 2), ("test", 150, 3)):
        write_csv(folder / f"{name}.csv", noisy(rows, seed))
    return folder


def fit(files: Path, out: str, **options: Any) -> Artifact:
    judge = {"resamples": 200, "calibrate": options.pop("calibrate", {})}
    given = {"target": "label", "base": {**BASE, "pooling": "hub-head"}, "train": TRAIN, **options}
    splits = {name: str(files / f"{name}.csv") for name in ("valid", "test")}
    return rg.fit(files / "train.csv", out=files / out, text="body", judge=judge, machine=SMALL["machine"], **splits, **given)


@pytest.fixture(scope="module")
def artifact(files: Path) -> Artifact:
    return fit(files, "model", calibrate={"method": "vector"})


def texts(count: int = 60) -> list[str]:
    return [row["body"] for row in noisy(count, 9)]


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def told(answers: list[Any]) -> list[dict[str, Any]]:
    return [answer.to_json() for answer in answers]


def same(first: list[dict[str, Any]], second: list[dict[str, Any]], far: float = 1e-5) -> None:
    for one, other in zip(first, second, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=far)
        assert {key: one[key] for key in one if key != "probabilities"} == {
            key: other[key] for key in other if key != "probabilities"
        }


def test_an_artifact_answers_with_what_it_learnt_of_its_validation_rows(artifact: Artifact):
    known = artifact.manifest.task.calibration[""]
    assert known["rows"] == 200
    assert set(known["losses"]) == {"none", "vector"}
    weights, biases = (np.array(known["calibrator"][name]) for name in ("weights", "biases"))
    answers = predict(artifact, texts())
    logits = np.array([answer.logits for answer in answers])
    expected = softmax(weights * logits + biases, axis=1)
    np.testing.assert_allclose([list(answer.probabilities.values()) for answer in answers], expected, atol=1e-12)
    assert replay_in_fresh_process(artifact.path, threads=1)["bitwise"] is True


def test_the_report_says_what_it_was_worth_on_the_test_rows(artifact: Artifact, files: Path):
    report = artifact.report.to_json()
    calibration = report["calibration"]
    assert (calibration["method"], calibration["validation_rows"], calibration["n"]) == ("vector", 200, 150)
    assert calibration["before"] != calibration["after"]
    metric = report["metrics"]["log_loss"]["value"]
    assert calibration["after"]["log_loss"] == pytest.approx(metric, abs=1e-9), "what is judged is calibrated"
    rows = table(files / "test.csv")
    answers = predict(artifact, [row["body"] for row in rows], coverage=0.9)
    inside = np.mean([row["label"] in answer.set for row, answer in zip(rows, answers, strict=True)])
    assert report["conformal"]["coverage_seen"]["value"] == pytest.approx(inside)
    assert report["conformal"]["mean_size"] == pytest.approx(np.mean([len(answer.set) for answer in answers]))
    whole = report["abstain"]["curve"][-1]
    assert whole["coverage"] == 1.0
    assert whole["risk"] == pytest.approx(1 - report["metrics"]["accuracy"]["value"])
    again = rg.evaluate(artifact, files / "test.csv", judge={"resamples": 200}, coverage=0.8).to_json()
    assert again["calibration"]["after"]["ece"] == pytest.approx(calibration["after"]["ece"], abs=1e-9)
    assert again["conformal"]["coverage_wanted"] == 0.8
    assert rg.Report.from_json(again).to_json()["abstain"] == again["abstain"]


def test_python_files_and_http_tell_the_same(artifact: Artifact, files: Path):
    rows = texts()
    expected = told(predict(artifact, rows, **ASKED))
    assert any(answer["abstained"] for answer in expected)
    assert {len(answer["set"]) for answer in expected} == {1, 2}
    source = write_csv(files / "ask.csv", [{"body": row} for row in rows])
    predict_file(artifact, source, out=files / "out.jsonl", **ASKED)
    lines = [json.loads(line) for line in (files / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["set"], line["abstained"]) for line in lines] == [(one["set"], one["abstained"]) for one in expected]
    predict_file(artifact, source, out=files / "out.csv", **ASKED)
    written = table(files / "out.csv")
    assert [row["abstained"] for row in written] == [str(one["abstained"]).lower() for one in expected]
    assert [json.loads(row["set"]) for row in written] == [one["set"] for one in expected]
    with BackgroundServer(artifact.path) as server:
        same(asked(server.url, {"rows": rows, **ASKED}), expected)
        plain = asked(server.url, {"rows": rows[:2]})
        assert "set" not in plain[0]
        with pytest.raises(urllib.error.HTTPError) as refused:
            asked(server.url, {"rows": rows[:1], "precision": 0.9999})
        assert refused.value.code == 422
        assert "no confidence promises that 0.9999" in json.load(refused.value)["problems"][0]["what"]


def asked(url: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    content = json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/predict", data=content, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["predictions"]  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino", "torch", "executorch", "mlflow"])
def test_every_export_tells_the_same(artifact: Artifact, files: Path, form: str):
    if form == "executorch" and not installed("executorch"):
        pytest.skip("executorch is not installed")
    notes: list[str] = []
    made = rg.export(artifact, format=form, out=files / form, rows=files / "test.csv", listen=_texts_into(notes))
    expected = told(predict(artifact, texts(), **ASKED))
    assert made.manifest.task.calibration == artifact.manifest.task.calibration
    for runtime in made.manifest.network.runtimes:
        same(told(predict(made, texts(), runtime=runtime, **ASKED)), expected)
    said = [note for note in notes if "calibrat" in note]
    assert bool(said) == (form != "mlflow"), "what other tools see of the file is not calibrated, and that is said"


def _texts_into(notes: list[str]) -> Any:
    return lambda event: notes.append(getattr(event, "text", ""))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["vector", "isotonic"])
def test_a_folder_for_the_hub_holds_the_calibration_in_its_weights_or_says_that_it_cannot(files: Path, method: str):
    from transformers import pipeline

    source = fit(files, f"for-hub-{method}", calibrate={"method": method})
    notes: list[str] = []
    made = rg.export(
        source, format="transformers", out=files / f"hub-{method}", rows=files / "test.csv", listen=_texts_into(notes)
    )
    expected = told(predict(source, texts(), **ASKED))
    same(told(predict(made, texts(), **ASKED)), expected)
    found = pipeline("text-classification", str(made.path), top_k=None)(texts())
    shares = [{one["label"]: one["score"] for one in row} for row in found]
    far = max(abs(row["ham"] - one["probabilities"]["ham"]) for row, one in zip(shares, expected, strict=True))
    said = next(note for note in notes if "calibrat" in note)
    assert replay_in_fresh_process(made.path, threads=1)["worst"] <= 1e-5
    if method == "vector":
        assert far < 1e-5
        assert (
            said
            == "the calibration (vector) stands in the weights of the last layer: other tools give calibrated probabilities too"
        )
        assert made.manifest.weights_digest != source.manifest.weights_digest
    else:
        assert far > 1e-3
        assert said == (
            "outputs of the network are not calibrated: regraft applies the calibration (isotonic) in manifest.json, "
            "other tools do not"
        )


def test_numbers_have_intervals_and_quantiles_are_moved(files: Path):
    task = {"name": "regression", "quantiles": [0.1, 0.9]}
    made = fit(files, "prices", target="price", task=task, base={"name": "mlp", "width": 16})
    report = made.report.to_json()
    assert report["calibration"]["after"]["calibration_error"] <= report["calibration"]["before"]["calibration_error"] + 0.02
    assert report["conformal"]["score"] == "cqr"
    low, high = (report["conformal"]["coverage_seen"][end] for end in ("low", "high"))
    assert low - 0.05 <= 0.9 <= high + 0.05
    assert "abstain" not in report
    answers = predict(made, texts(5), coverage=0.9)
    assert all(answer.interval[0] <= answer.value <= answer.interval[1] for answer in answers)
    source = write_csv(files / "ask-price.csv", [{"body": row} for row in texts(5)])
    predict_file(made, source, out=files / "prices.csv", coverage=0.9)
    assert [float(row["interval.low"]) for row in table(files / "prices.csv")] == pytest.approx(
        [answer.interval[0] for answer in answers]
    )
    with pytest.raises(UsageError, match="only answers that are one label of several"):
        predict(made, texts(1), min_confidence=0.5)


def test_with_few_validation_rows_nothing_is_calibrated_and_that_is_said(files: Path):
    notes: list[str] = []
    few = write_csv(files / "few.csv", noisy(30, 4))
    made = rg.fit(
        files / "train.csv",
        target="label",
        text="body",
        out=files / "few",
        valid=str(few),
        test=str(files / "test.csv"),
        listen=_texts_into(notes),
        **{**SMALL, "train": {**SMALL["train"], "epochs": 1}},
    )
    assert made.manifest.task.calibration == {}
    assert any(
        note.startswith("nothing is calibrated, and there are no sets or intervals: 30 validation rows") for note in notes
    )
    report = made.report.to_json()
    assert report["calibration"]["before"] == report["calibration"]["after"]
    assert report["calibration"]["notes"] == ["nothing was calibrated: there were no validation rows, or too few"]
    assert "conformal" not in report
    with pytest.raises(UsageError, match="the artifact cannot give sets or intervals"):
        predict(made, texts(1), coverage=0.9)
    with pytest.raises(OptionsError, match="there is no calibrator 'platt'"):
        fit(files, "never", calibrate={"method": "platt"})
    assert not (files / "never").exists()
