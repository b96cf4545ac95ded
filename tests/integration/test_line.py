"""The straight line, from rows to an artifact that answers the same everywhere."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from line_rows import mails, write_csv

import regraft as rg
from regraft.artifact.store import Artifact, read_artifact
from regraft.serving.serve import BackgroundServer


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_fit_learns_and_reports_the_ladder(artifact: Artifact):
    report = artifact.report.to_json()
    assert [rung["name"] for rung in report["ladder"]] == ["majority", "nearest-centroid", "linear-probe", "fitted"]
    assert report["verdict"] in {"better", "no evidence", "worse"}
    majority, fitted = report["ladder"][0]["metrics"]["accuracy"], report["metrics"]["accuracy"]
    assert fitted["low"] > majority["high"], "words that decide the label must be learnt"
    assert fitted["n"] == report["n"] == 48
    assert report["seconds"] > 0
    assert set(report["seconds_by_stage"]) >= {"read", "tokenise", "train", "judge"}


def test_the_four_doors_answer_the_same_bits(artifact: Artifact, fresh_file: Path, tmp_path: Path):
    texts = [row["body"] for row in read_rows(fresh_file)]
    here = rg.load(artifact).predict(texts)
    expected = [list(answer.probabilities.values()) for answer in here]

    summary = rg.lifecycle.predict_file(artifact, str(fresh_file), out=tmp_path / "answers.csv")
    assert (summary.rows, summary.answered, summary.bad) == (100, 100, 0)
    from_file = [[float(row["probability.ham"]), float(row["probability.spam"])] for row in read_rows(tmp_path / "answers.csv")]
    assert from_file == expected

    with BackgroundServer(artifact.path) as server:
        body = json.dumps({"rows": texts}).encode()
        request = urllib.request.Request(f"{server.url}/predict", data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            over_http = [list(row["probabilities"].values()) for row in json.load(answer)["predictions"]]
    assert over_http == expected

    command = [sys.executable, "-m", "regraft", "predict", str(artifact.path), str(fresh_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [[row["probability.ham"], row["probability.spam"]] for row in lines] == expected
    assert [row["id"] for row in lines] == [row["id"] for row in read_rows(fresh_file)]


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_batch_size_and_padding_move_nothing(artifact: Artifact, fresh_file: Path, batch_size: int):
    predictor = rg.load(artifact)
    texts = [row["body"] for row in read_rows(fresh_file)]
    together = predictor.probabilities(texts)
    apart = predictor.probabilities(texts, batch_size=batch_size)
    np.testing.assert_allclose(apart, together, atol=1e-5)


def test_same_command_same_seed_same_bytes(artifact: Artifact, fit_small: Callable[..., Artifact], tmp_path: Path):
    again = fit_small(tmp_path / "again")
    assert again.weights_digest == artifact.weights_digest
    other = fit_small(tmp_path / "other", seed=1)
    assert other.weights_digest != artifact.weights_digest


def test_an_older_artifact_is_replaced_and_the_backbone_is_a_hub_folder(fit_small: Callable[..., Artifact], tmp_path: Path):
    from transformers import AutoModel

    import regraft.models.scratch_networks  # noqa: F401 - registers our own architectures with the hub's classes

    first = fit_small(tmp_path / "model")
    second = fit_small(tmp_path / "model", seed=3)
    assert read_artifact(tmp_path / "model").digest == second.digest != first.digest
    assert AutoModel.from_pretrained(tmp_path / "model" / "backbone").config.model_type == "regraft-mlp"
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "nothing else may be left beside the artifact"


def test_evaluate_and_compare(artifact: Artifact, fit_small: Callable[..., Artifact], fresh_file: Path, tmp_path: Path):
    report = rg.evaluate(artifact, str(fresh_file), judge={"resamples": 200}).to_json()
    truth = [row["label"] for row in read_rows(fresh_file)]
    given = [answer.label for answer in rg.load(artifact).predict([row["body"] for row in read_rows(fresh_file)])]
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(np.mean([a == b for a, b in zip(truth, given, strict=True)]))
    assert report["n"] == 100

    untrained = fit_small(tmp_path / "untrained", train={"epochs": 0})
    verdict = rg.compare(untrained, artifact, str(fresh_file), judge={"resamples": 200})
    assert verdict.verdict == "better"
    assert verdict.to_json()["verdict_detail"]["a"] == "untrained"
    assert rg.compare(artifact, untrained, str(fresh_file), judge={"resamples": 200}).verdict == "worse"
    assert rg.compare(artifact, artifact, str(fresh_file), judge={"resamples": 200}).verdict == "no evidence"


@pytest.mark.parametrize(("make", "labels"), [(int, [0, 1]), (bool, [False, True])])
def test_labels_keep_their_type(make: type, labels: list[Any], fit_small: Callable[..., Artifact], tmp_path: Path):
    rows = [{"body": row["body"], "label": make(row["label"] == "spam")} for row in mails(80, seed=4)]
    fitted = fit_small(tmp_path / "typed", data=rows, train={"epochs": 1})
    answers = rg.load(fitted).predict([row["body"] for row in rows[:5]])
    assert {type(answer.label) for answer in answers} == {make}
    assert fitted.manifest.task.state["labels"] == labels
    data = write_csv(tmp_path / "typed.csv", [{k: str(v) for k, v in row.items()} for row in rows])
    report = rg.evaluate(fitted, data, judge={"overlap": "keep"})
    assert report.judgement.n == 80, "labels out of a CSV file are read in the type of the training labels"


def test_given_splits_are_respected(fit_small: Callable[..., Artifact], tmp_path: Path):
    train, valid, test = mails(60, seed=5), mails(20, seed=6), mails(30, seed=7)
    files = {name: str(write_csv(tmp_path / f"{name}.csv", rows)) for name, rows in [("a", train), ("b", valid), ("c", test)]}
    fitted = fit_small(tmp_path / "model", data=files["a"], valid=files["b"], test=files["c"])
    assert fitted.report.about["rows"] == {"train": 60, "valid": 20, "test": 30}


def test_head_tuning_leaves_the_body_as_it_was(fit_small: Callable[..., Artifact], tmp_path: Path):
    from safetensors.numpy import load_file

    untouched = fit_small(tmp_path / "untouched", train={"epochs": 0}, base={"name": "gru", "width": 16})
    headed = fit_small(tmp_path / "headed", tuning="head", base={"name": "gru", "width": 16})
    before, after = (load_file(a.path / "backbone" / "model.safetensors") for a in (untouched, headed))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    heads = [load_file(a.path / "weights.safetensors") for a in (untouched, headed)]
    assert any(not np.array_equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_events_tell_the_whole_story(fit_small: Callable[..., Artifact], tmp_path: Path):
    events: list[Any] = []
    fit_small(tmp_path / "model", listen=events.append, train={"epochs": 1})
    kinds = [event.to_json()["event"] for event in events]
    assert {"stage", "note", "begin", "step", "valid", "end", "progress"} <= set(kinds)
    assert all(json.dumps(event.to_json()) for event in events)


def test_objects_and_paths_stand_wherever_names_may(fit_small: Callable[..., Artifact], tmp_path: Path):
    import pandas as pd

    train, valid, test = (pd.DataFrame(mails(rows, seed=seed)) for rows, seed in [(60, 5), (20, 6), (30, 7)])
    fitted = rg.fit(train, target="label", out=tmp_path / "model", valid=valid, test=test, base="mlp", train={"epochs": 1})
    assert fitted.report.about["rows"] == {"train": 60, "valid": 20, "test": 30}
    file = write_csv(tmp_path / "test.csv", mails(30, seed=7))
    again = rg.fit(train, target="label", out=tmp_path / "model", valid=valid, test=file, base="mlp", train={"epochs": 1})
    assert again.weights_digest == fitted.weights_digest


def test_a_table_of_rows_is_answered_row_by_row(artifact: Artifact):
    import pandas as pd
    import pyarrow as pa

    rows = mails(5, seed=8)
    expected = rg.predict(artifact, rows)
    assert rg.predict(artifact, pd.DataFrame(rows)) == expected
    assert rg.load(artifact).predict(pa.Table.from_pylist(rows)) == expected
    assert rg.predict(artifact, pd.DataFrame(rows)["body"]) == expected


@pytest.mark.parametrize("shapes", ["padded", "fixed"])
def test_whatever_shapes_it_learnt_in_it_is_judged_as_it_is_served(fit_small, tmp_path: Path, shapes: str):
    """The golden rows are answered again in a fresh process, which packs rows, and must have the same bits."""
    base = {"name": "transformer", "width": 32, "heads": 2, "layers": 2, "vocabulary_size": 300, "positions": 64}
    found = fit_small(tmp_path / "model", base=base, machine={"threads": 1, "shapes": shapes, "cache": {"disk_mb": 0}})
    assert found.manifest.options["machine"]["shapes"] == shapes
