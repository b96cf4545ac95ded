"""The straight line for every task that is not classification: the same doors, the same gates."""

from __future__ import annotations

import json
import random
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from line_rows import SMALL, write_csv
from sklearn import metrics as reference

import regraft as rg
from regraft.artifact.store import Artifact
from regraft.errors import DataError, OptionsError
from regraft.serving.replay import replay_in_fresh_process
from regraft.serving.serve import BackgroundServer

_NOISE = ["the", "of", "and", "you", "with", "from", "about", "please"]
OPTIONS: dict[str, Any] = {**SMALL, "train": {**SMALL["train"], "epochs": 8}}


def words(rng: random.Random, *wanted: str) -> str:
    chosen = [*wanted, *rng.choices(_NOISE, k=rng.randint(1, 12))]
    rng.shuffle(chosen)
    return " ".join(chosen)


def prices(rows: int, seed: int) -> list[dict[str, str]]:
    """Rows whose price grows with how often a word stands in the text."""
    rng = random.Random(seed)
    made = []
    for _ in range(rows):
        count = rng.randint(0, 8)
        made.append({"body": words(rng, *["fine"] * count), "price": f"{1000 + 250 * count + rng.gauss(0, 40):.2f}"})
    return made


_TAGS = {"red": "apple", "round": "ball", "big": "whale"}


def tagged(rows: int, seed: int) -> list[dict[str, Any]]:
    """Rows with a label for each of three words."""
    rng = random.Random(seed)
    made = []
    for _ in range(rows):
        tags = [tag for tag in _TAGS if rng.random() < 0.4]
        made.append({"body": words(rng, *(_TAGS[tag] for tag in tags)), "tags": tags})
    return made


_STARS = ("awful", "poor", "fair", "good", "great")


def starred(rows: int, seed: int) -> list[dict[str, Any]]:
    """Rows whose rank is how many of four words are good."""
    rng = random.Random(seed)
    made = []
    for _ in range(rows):
        good = rng.randint(0, 4)
        made.append({"body": words(rng, *["fine"] * good, *["bad"] * (4 - good)), "stars": _STARS[good]})
    return made


def served(artifact: Artifact, rows: list[Any]) -> list[dict[str, Any]]:
    with BackgroundServer(artifact.path) as server:
        body = json.dumps({"rows": rows}).encode()
        request = urllib.request.Request(f"{server.url}/predict", data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["predictions"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks")


@pytest.fixture(scope="module")
def price_file(folder: Path) -> Path:
    return write_csv(folder / "fresh.csv", prices(80, seed=9))


@pytest.fixture(scope="module")
def priced(folder: Path) -> Artifact:
    data = str(write_csv(folder / "prices.csv", prices(240, seed=1)))
    return rg.fit(data, target="price", out=folder / "priced", task="regression", **OPTIONS)


@pytest.fixture(scope="module")
def spread(folder: Path) -> Artifact:
    data = str(write_csv(folder / "prices2.csv", prices(240, seed=1)))
    task = {"name": "regression", "quantiles": [0.1, 0.9]}
    return rg.fit(data, target="price", out=folder / "spread", task=task, **OPTIONS)


def test_regression_learns_and_is_held_against_its_own_baselines(priced: Artifact):
    report = priced.report.to_json()
    assert [rung["name"] for rung in report["ladder"]] == ["mean", "median", "ridge-probe", "fitted"]
    mean, fitted = report["ladder"][0]["metrics"]["mae"], report["metrics"]["mae"]
    assert fitted["high"] < mean["low"]
    assert report["metrics"]["r2"]["low"] > 0.5
    assert report["ladder"][1]["against_previous"]["quantity"] == "mae"
    assert set(priced.manifest.task.state) == {"mean", "scale"}
    card = (priced.path / "card.md").read_text()
    assert f"| fitted | {fitted['value']:.4g} [" in card
    assert "gives an answer to anything it is shown" in card


def test_numbers_are_the_same_through_every_door(priced: Artifact, price_file: Path, tmp_path: Path):
    rows = prices(80, seed=9)
    texts = [row["body"] for row in rows]
    here = rg.load(priced).predict(texts)
    assert all(isinstance(answer.value, float) for answer in here)
    assert served(priced, texts) == [{"prediction": answer.value} for answer in here]
    rg.lifecycle.predict_file(priced, str(price_file), out=tmp_path / "answers.csv")
    written = (tmp_path / "answers.csv").read_text().splitlines()
    assert written[0] == "row,body,price,prediction,error"
    assert [float(line.split(",")[-2]) for line in written[1:]] == [answer.value for answer in here]

    truth = [float(row["price"]) for row in rows]
    report = rg.evaluate(priced, str(price_file), judge={"resamples": 200, "overlap": "keep"}).to_json()
    given = [answer.value for answer in here]
    assert report["metrics"]["mae"]["value"] == pytest.approx(reference.mean_absolute_error(truth, given), rel=1e-9)
    assert report["metrics"]["r2"]["value"] == pytest.approx(reference.r2_score(truth, given), rel=1e-9)
    assert report["ladder"][0]["name"] == "median"
    assert report["verdict"] == "better"
    assert replay_in_fresh_process(priced.path, threads=1)["bitwise"] is True


@pytest.mark.slow
def test_quantiles_travel_with_the_answer(spread: Artifact, tmp_path: Path):
    report = spread.report.to_json()
    assert [rung["name"] for rung in report["ladder"]] == ["quantiles-of-all", "ridge-quantiles", "fitted"]
    assert "coverage should be near 0.8: quantiles 0.1 to 0.9" in report["notes"]
    rows = prices(40, seed=4)
    (first, *_), (here, *_) = served(spread, [row["body"] for row in rows]), rg.load(spread).predict([rows[0]["body"]])
    assert list(first) == ["prediction", "quantiles"]
    assert first["quantiles"] == pytest.approx(dict(here.quantiles), rel=1e-5)
    assert here.quantiles["0.1"] < here.value == here.quantiles["0.5"] < here.quantiles["0.9"]
    summary = rg.lifecycle.predict_file(spread, rows, out=tmp_path / "answers.jsonl")
    assert summary.columns[-5:] == ("prediction", "quantile.0.1", "quantile.0.5", "quantile.0.9", "error")


@pytest.mark.slow
def test_two_regressions_are_compared_on_the_same_rows(priced: Artifact, spread: Artifact, price_file: Path, folder: Path):
    train = {**OPTIONS["train"], "epochs": 0}
    data = str(folder / "prices.csv")
    untrained = rg.fit(data, target="price", out=folder / "untrained", task="regression", **{**OPTIONS, "train": train})
    verdict = rg.compare(untrained, priced, str(price_file), judge={"resamples": 500, "overlap": "keep"})
    assert verdict.verdict == "better"
    detail = verdict.to_json()["verdict_detail"]
    assert (detail["a"], detail["quantity"]) == ("untrained", "mae")
    assert detail["difference"]["high"] < 0
    assert rg.compare(priced, priced, str(price_file), judge={"resamples": 200, "overlap": "keep"}).verdict == "no evidence"
    with pytest.raises(DataError, match=r"not give the same kind of answers(.|\n)*quantiles against numbers"):
        rg.compare(priced, spread, str(price_file))


@pytest.mark.slow
def test_an_export_of_numbers_is_held_to_its_raw_outputs(spread: Artifact, price_file: Path, folder: Path):
    exported = rg.export(spread, format="onnx", out=folder / "onnx", rows=str(price_file))
    seen = exported.manifest.export.gate["runtimes"]["onnxruntime"]
    assert seen["rows"] == 96
    assert seen["worst_logit"] < 1e-4
    assert seen["agreement"] == 1.0
    texts = [row["body"] for row in prices(10, seed=3)]
    expected, got = (rg.load(one).predict(texts) for one in (spread, exported))
    np.testing.assert_allclose([a.value for a in got], [a.value for a in expected], rtol=1e-5)


@pytest.mark.slow
def test_reduced_precision_is_held_to_distances_from_the_truth(priced: Artifact, price_file: Path, folder: Path):
    exported = rg.export(
        priced, format={"name": "onnx", "precision": "int8"}, out=folder / "int8", rows=str(price_file), sample=40
    )
    (seen, *_) = exported.manifest.export.gate["runtimes"].values()
    assert seen["agreement"] >= 0.99
    distance = seen["distance"]
    assert distance["interval"][0] <= distance["source"] <= distance["interval"][1]
    assert distance["export"] <= distance["interval"][1]


def test_metrics_and_baselines_of_other_tasks_are_refused_before_anything_is_read(folder: Path):
    wanted = {"target": "price", "out": folder / "none", "task": "regression", "base": SMALL["base"]}
    with pytest.raises(OptionsError, match=r"'accuracy' \(metrics\) is for classes or ranks, not for numbers"):
        rg.fit("spam", train={"validation": {"metric": "accuracy"}}, **wanted)
    with pytest.raises(OptionsError, match=r"'majority' \(rungs\) is for classes or ranks, not for numbers"):
        rg.fit("spam", judge={"rungs": ["majority"]}, **wanted)


def test_a_column_of_amounts_without_a_task_names_the_one_that_it_is_for(folder: Path):
    data = str(write_csv(folder / "amounts.csv", prices(60, seed=2)))
    with pytest.raises(DataError, match=r"does not look like classes(.|\n)*--task regression"):
        rg.fit(data, target="price", out=folder / "none", **OPTIONS)
    rows = [{"body": row["body"], "price": round(float(row["price"]), -2) + 0.5} for row in prices(60, seed=2)]
    with pytest.raises(DataError, match=r"numbers with fractions are amounts(.|\n)*--task regression"):
        rg.fit(rows, target="price", out=folder / "none", **OPTIONS)


def test_targets_that_are_no_numbers_are_named_with_file_and_column(folder: Path):
    rows = prices(60, seed=2)
    rows[5]["price"] = "n/a"
    data = str(write_csv(folder / "broken.csv", rows))
    with pytest.raises(DataError) as caught:
        rg.fit(data, target="price", out=folder / "none", task="regression", **{**OPTIONS, "seed": 1})
    assert "'n/a'" in str(caught.value)
    assert "broken.csv" in str(caught.value)


@pytest.mark.slow
def test_several_labels_a_row_go_through_every_door(folder: Path, tmp_path: Path):
    train = folder / "tags.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in tagged(240, seed=1)))
    fresh = tagged(60, seed=2)
    fitted = rg.fit(str(train), target="tags", text="body", task="multi-label", out=folder / "tagged", **OPTIONS)
    report = fitted.report.to_json()
    assert [rung["name"] for rung in report["ladder"]] == ["label-shares", "one-vs-rest-probe", "fitted"]
    assert report["metrics"]["micro_f1"]["low"] > 0.6
    assert [row["label"] for row in report["per_class"]] == sorted(_TAGS)
    assert (report["confusion"], report["verdict_detail"]["quantity"]) == (None, "micro-f1")
    here = rg.load(fitted).predict([row["body"] for row in fresh])
    over_http = served(fitted, [row["body"] for row in fresh])
    assert [answer["prediction"] for answer in over_http] == [answer.value for answer in here]
    rg.lifecycle.predict_file(fitted, fresh, out=tmp_path / "answers.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [line["prediction"] for line in lines] == [answer.value for answer in here]
    assert list(lines[0]) == ["row", "body", "tags", "prediction", *(f"probability.{tag}" for tag in sorted(_TAGS)), "error"]

    separated = [{"body": row["body"], "tags": ";".join(row["tags"]) or "none"} for row in tagged(240, seed=1)]
    data = str(write_csv(folder / "tags.csv", separated))
    task = {"name": "multi-label", "separator": ";", "no_label": "none"}
    again = rg.fit(data, target="tags", text="body", task=task, out=folder / "tagged2", **OPTIONS)
    assert again.manifest.task.state == fitted.manifest.task.state
    marks = [[tag in row["tags"] for tag in sorted(_TAGS)] for row in fresh]
    given = [[tag in answer.value for tag in sorted(_TAGS)] for answer in here]
    judged = rg.evaluate(fitted, fresh, judge={"resamples": 200, "overlap": "keep"})
    assert judged.judgement.metrics["micro-f1"].value == pytest.approx(reference.f1_score(marks, given, average="micro"))
    assert judged.verdict == "better"
    untrained = {**OPTIONS, "train": {**OPTIONS["train"], "epochs": 0}}
    old = rg.fit(str(train), target="tags", text="body", task="multi-label", out=folder / "tagged0", **untrained)
    assert rg.compare(old, fitted, fresh, judge={"resamples": 200, "overlap": "keep"}).verdict == "better"
    exported = rg.export(fitted, format="onnx", out=folder / "tagged-onnx", rows=str(train))
    seen = exported.manifest.export.gate["runtimes"]["onnxruntime"]
    assert seen["worst_probability"] < 1e-5
    assert seen["agreement"] == 1.0
    with pytest.raises(DataError, match=r"several labels a row are for --task multi-label"):
        rg.fit(str(train), target="tags", text="body", out=folder / "none", **OPTIONS)


@pytest.mark.slow
def test_ranks_go_through_every_door(folder: Path):
    train = str(write_csv(folder / "stars.csv", starred(240, seed=1)))
    fresh = starred(60, seed=2)
    task = {"name": "ordinal", "order": list(_STARS)}
    fitted = rg.fit(train, target="stars", text="body", task=task, out=folder / "starred", **OPTIONS)
    report = fitted.report.to_json()
    assert [rung["name"] for rung in report["ladder"]] == ["majority", "nearest-centroid", "linear-probe", "fitted"]
    assert report["confusion"]["labels"] == list(_STARS)
    assert report["metrics"]["quadratic_kappa"]["low"] > 0.7
    here = rg.load(fitted).predict([row["body"] for row in fresh])
    assert [answer["prediction"] for answer in served(fitted, [row["body"] for row in fresh])] == [a.value for a in here]
    assert all(sum(answer.probabilities.values()) == pytest.approx(1.0) for answer in here)
    judged = rg.evaluate(fitted, fresh, judge={"resamples": 200})
    off = [abs(_STARS.index(row["stars"]) - _STARS.index(answer.value)) for row, answer in zip(fresh, here, strict=True)]
    assert judged.judgement.metrics["rank-mae"].value == pytest.approx(np.mean(off))
    assert judged.ladder.verdict.quantity == "rank-mae"
    turned = {"name": "ordinal", "order": list(_STARS[::-1])}
    other = rg.fit(train, target="stars", text="body", task=turned, out=folder / "turned", **OPTIONS)
    with pytest.raises(DataError, match="do not know the same labels in the same order"):
        rg.compare(fitted, other, fresh)
    exported = rg.export(fitted, format="onnx", out=folder / "starred-onnx", rows=train)
    assert exported.manifest.export.gate["runtimes"]["onnxruntime"]["agreement"] == 1.0
